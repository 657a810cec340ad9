#!/usr/bin/env bash
#
# An etcd of three on this machine, on ports that nobody else has, with TLS that trusts these three and
# nobody else; any number of them side by side.
#
#   examples/etcd.sh            runs it until Ctrl-C; other arguments go to `xlreg run`
#   examples/etcd.sh --plain    the same without TLS
#   examples/etcd.sh --check    starts one, has etcdctl and strangers look at it, takes it down
#
# Needs `xlreg` on the PATH, and etcd: apt-get install etcd-server etcd-client. The check needs openssl
# and python3, too.
set -euo pipefail

# The first endpoint is for the members among themselves, the second for clients. Both take nobody who
# doesn't show a member's certificate.
#
# An etcd that is stopped wants to hand its leadership on. If all are stopped at once, nobody takes
# it, and it waits for seconds: hence the short grace.
etcd_cluster() {
    local http=https run=(--tls) tls=(
        --peer-cert-file '{cert}' --peer-key-file '{key}'
        --peer-trusted-ca-file '{roster_ca}' --peer-client-cert-auth
        --cert-file '{cert}' --key-file '{key}'
        --trusted-ca-file '{roster_ca}' --client-cert-auth
    )
    if [ "${1-}" = --plain ]; then
        shift
        http=http run=() tls=()
    fi
    exec xlreg run -n 3 --cluster etcd --endpoints 2 --grace 1s "${run[@]}" \
        --ready "$http://{endpoint1}/health" "$@" -- \
        etcd --name '{name}' --data-dir '{dir}/etcd' --logger zap --log-level warn \
        --initial-cluster "{members , {name}=$http://{endpoint}}" \
        --initial-advertise-peer-urls "$http://{endpoint}" --listen-peer-urls "$http://{endpoint}" \
        --advertise-client-urls "$http://{endpoint1}" --listen-client-urls "$http://{endpoint1}" \
        "${tls[@]}"
}

die() {
    echo "error: $*" >&2
    exit 1
}

if [ "${1-}" != --check ]; then
    etcd_cluster "$@"
fi

# shellcheck source=../interop/wire.sh
. "$(dirname "${BASH_SOURCE[0]}")/../interop/wire.sh"
run=
clean_up() {
    wire_ends
    # Says so itself if it can't.
    if [ -n "$run" ]; then xlreg down "$run"; fi
}
trap clean_up EXIT
trap 'exit 143' INT TERM HUP
run=$(etcd_cluster --detach)

# The last two columns of a member's line are its endpoints.
mapfile -t peers < <(xlreg ps "$run" | awk 'NR > 1 { print $(NF - 1) }')
mapfile -t clients < <(xlreg ps "$run" | awk 'NR > 1 { print $NF }')
[ ${#clients[@]} = 3 ] || die "xlreg ps does not show three members: ${clients[*]}"
capture "${peers[@]##*:}" "${clients[@]##*:}"

# As one of the members.
dir=$(xlreg ps "$run" --output json | sed -n 's/.*"dir": "\(.*member_0\)".*/\1/p')
export ETCDCTL_API=3
as_member=(--cert "$dir/cert.pem" --key "$dir/key.pem" --cacert "$dir/roster-ca.pem")
all=$(IFS=,; echo "${clients[*]/#/https://}")
etcdctl "${as_member[@]}" --endpoints "$all" endpoint health

# What one is told, all know.
secret="hello from $run $RANDOM$RANDOM"
etcdctl "${as_member[@]}" --endpoints "https://${clients[0]}" put greeting "$secret"
for client in "${clients[@]}"; do
    got=$(etcdctl "${as_member[@]}" --endpoints "https://$client" get greeting --print-value-only)
    [ "$got" = "$secret" ] || die "$client says: $got"
done
echo "ok: three healthy members, and all know what one was told"

for address in "${peers[@]}" "${clients[@]}"; do
    refuses_strangers "$address" "$dir/roster-ca.pem"
done
echo "ok: who shows no member's certificate is refused, and who speaks without TLS"
captured "$secret"
