#!/usr/bin/env bash
#
# An etcd of three on this machine, on ports that nobody else has; any number of them side by side.
#
#   examples/etcd.sh            runs it until Ctrl-C; other arguments go to `xlreg run`
#   examples/etcd.sh --check    starts one, has etcdctl look at it, takes it down
#
# Needs `xlreg` on the PATH, and etcd: apt-get install etcd-server etcd-client
set -euo pipefail

# The first endpoint is for the members among themselves, the second for clients.
#
# An etcd that is stopped wants to hand its leadership on. If all are stopped at once, nobody takes
# it, and it waits for seconds: hence the short grace.
etcd_cluster() {
    exec xlreg run -n 3 --cluster etcd --endpoints 2 --grace 1s \
        --ready 'http://{endpoint1}/health' "$@" -- \
        etcd --name '{name}' --data-dir '{dir}/etcd' --logger zap --log-level warn \
        --initial-cluster '{members , {name}=http://{endpoint}}' \
        --initial-advertise-peer-urls 'http://{endpoint}' --listen-peer-urls 'http://{endpoint}' \
        --advertise-client-urls 'http://{endpoint1}' --listen-client-urls 'http://{endpoint1}'
}

die() {
    echo "error: $*" >&2
    exit 1
}

if [ "${1-}" != --check ]; then
    etcd_cluster "$@"
fi

run=
# Says so itself if it can't.
trap 'if [ -n "$run" ]; then xlreg down "$run"; fi' EXIT
trap 'exit 143' INT TERM HUP
run=$(etcd_cluster --detach)

# The last column of a member's line is its second endpoint.
mapfile -t clients < <(xlreg ps "$run" | awk 'NR > 1 { print $NF }')
[ ${#clients[@]} = 3 ] || die "xlreg ps does not show three members: ${clients[*]}"
export ETCDCTL_API=3
all=$(IFS=,; echo "${clients[*]}")
etcdctl --endpoints "$all" endpoint health

# What one is told, all know.
etcdctl --endpoints "${clients[0]}" put greeting "hello from $run"
for client in "${clients[@]}"; do
    got=$(etcdctl --endpoints "$client" get greeting --print-value-only)
    [ "$got" = "hello from $run" ] || die "$client says: $got"
done
echo "ok: three healthy members, and all know what one was told"
