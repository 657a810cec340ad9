#!/usr/bin/env bash
#
# A Redis Cluster of six on this machine, three masters and a replica of each, on ports that nobody
# else has, with TLS that trusts these six and nobody else; any number of them side by side.
#
#   examples/redis-cluster.sh            runs it until Ctrl-C; other arguments go to `xlreg run`
#   examples/redis-cluster.sh --plain    the same without TLS
#   examples/redis-cluster.sh --check    starts one, has redis-cli and strangers look at it, takes it down
#
# Needs `xlreg` on the PATH, and Redis 7 or later with TLS: apt-get install redis-server redis-tools. The
# check needs openssl and python3, too.
set -euo pipefail

# The first endpoint is for clients, the second for the cluster's bus. With TLS, both take nobody who
# doesn't show a member's certificate.
#
# Redis has to be told to become a cluster, once, when all are up. The last member does that beside
# its server, again until it works. Ready is who finds it well and knows them all.
redis_cluster() {
    local run=(--tls) cli='--tls --cert "{cert}" --key "{key}" --cacert "{roster_ca}"' server='
        --port 0 --tls-port {port} --tls-auth-clients yes --tls-replication yes --tls-cluster yes
        --tls-cert-file "{cert}" --tls-key-file "{key}" --tls-ca-cert-file "{roster_ca}"'
    if [ "${1-}" = --plain ]; then
        shift
        run=() cli='' server='--port {port}'
    fi
    # shellcheck disable=SC2016  # it is the inner shells that fill these in
    exec xlreg run -n 6 --cluster redis --endpoints 2 "${run[@]}" \
        --ready 'cmd:[ "$(redis-cli -h {host} -p {port} '"$cli"' cluster info |
            grep -cE "cluster_(state:ok|known_nodes:{size})")" = 2 ]' "$@" -- \
        sh -c '
            if [ {rank} = 5 ] && ! [ -e "{dir}/nodes.conf" ]; then
                until redis-cli '"$cli"' --cluster create {members \s {endpoint}} \
                    --cluster-replicas 1 --cluster-yes; do sleep 0.2; done &
            fi
            exec redis-server --bind {host} --dir "{dir}" \
                --cluster-enabled yes --cluster-port {port1} '"${server//$'\n'/}"
}

die() {
    echo "error: $*" >&2
    exit 1
}

if [ "${1-}" != --check ]; then
    redis_cluster "$@"
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
run=$(redis_cluster --detach)

# The last two columns of a member's line are its endpoints.
mapfile -t nodes < <(xlreg ps "$run" | awk 'NR > 1 { print $(NF - 1) }')
mapfile -t buses < <(xlreg ps "$run" | awk 'NR > 1 { print $NF }')
[ ${#nodes[@]} = 6 ] || die "xlreg ps does not show six members: ${nodes[*]}"
capture "${nodes[@]##*:}" "${buses[@]##*:}"

# ask NODE WORD...: as one of the members; what one is told, all know where to find (-c).
dir=$(xlreg ps "$run" --output json | sed -n 's/.*"dir": "\(.*member_0\)".*/\1/p')
ask() {
    redis-cli -c -h "${1%:*}" -p "${1##*:}" --tls --cert "$dir/cert.pem" --key "$dir/key.pem" \
        --cacert "$dir/roster-ca.pem" "${@:2}"
}
for node in "${nodes[@]}"; do
    info=$(ask "$node" cluster info | tr -d '\r')
    grep -x 'cluster_state:ok' <<<"$info" || die "$node says: $info"
    grep -qx 'cluster_known_nodes:6' <<<"$info" || die "$node says: $info"
    grep -qx 'cluster_slots_ok:16384' <<<"$info" || die "$node says: $info"
done
secret="hello from $run $RANDOM$RANDOM"
[ "$(ask "${nodes[0]}" set greeting "$secret")" = OK ] || die "${nodes[0]} does not take a value"
for node in "${nodes[@]}"; do
    got=$(ask "$node" get greeting)
    [ "$got" = "$secret" ] || die "$node says: $got"
done
echo "ok: six nodes, cluster_state:ok at each, and all find what one was told"

for address in "${nodes[@]}" "${buses[@]}"; do
    refuses_strangers "$address" "$dir/roster-ca.pem"
done
echo "ok: who shows no member's certificate is refused, and who speaks without TLS"
captured "$secret"
