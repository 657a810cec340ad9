#!/usr/bin/env bash
#
# A Redis Cluster of six on this machine, three masters and a replica of each, on ports that nobody
# else has; any number of them side by side.
#
#   examples/redis-cluster.sh            runs it until Ctrl-C; other arguments go to `xlreg run`
#   examples/redis-cluster.sh --check    starts one, has redis-cli look at it, takes it down
#
# Needs `xlreg` on the PATH, and Redis 7 or later: apt-get install redis-server redis-tools
set -euo pipefail

# The first endpoint is for clients, the second for the cluster's bus.
#
# Redis has to be told to become a cluster, once, when all are up. The last member does that beside
# its server, again until it works. Ready is who finds it well and knows them all.
redis_cluster() {
    # shellcheck disable=SC2016  # it is the inner shell that fills these in
    exec xlreg run -n 6 --cluster redis --endpoints 2 \
        --env 'NODES={members \s {endpoint}}' \
        --ready 'cmd:[ "$(redis-cli -h {host} -p {port} cluster info |
            grep -cE "cluster_(state:ok|known_nodes:{size})")" = 2 ]' "$@" -- \
        sh -c '
            if [ "$XLREG_RANK" = 5 ] && ! [ -e "$XLREG_DIR/nodes.conf" ]; then
                until redis-cli --cluster create $NODES --cluster-replicas 1 --cluster-yes; do
                    sleep 0.2
                done &
            fi
            exec redis-server --bind "$XLREG_HOST" --port "$XLREG_PORT" --dir "$XLREG_DIR" \
                --cluster-enabled yes --cluster-port "$XLREG_PORT1"'
}

die() {
    echo "error: $*" >&2
    exit 1
}

if [ "${1-}" != --check ]; then
    redis_cluster "$@"
fi

run=
# Says so itself if it can't.
trap 'if [ -n "$run" ]; then xlreg down "$run"; fi' EXIT
trap 'exit 143' INT TERM HUP
run=$(redis_cluster --detach)

# The last but one column of a member's line is its first endpoint.
mapfile -t nodes < <(xlreg ps "$run" | awk 'NR > 1 { print $(NF - 1) }')
[ ${#nodes[@]} = 6 ] || die "xlreg ps does not show six members: ${nodes[*]}"
for node in "${nodes[@]}"; do
    info=$(redis-cli -h "${node%:*}" -p "${node##*:}" cluster info | tr -d '\r')
    grep -x 'cluster_state:ok' <<<"$info" || die "$node says: $info"
    grep -qx 'cluster_known_nodes:6' <<<"$info" || die "$node says: $info"
    grep -qx 'cluster_slots_ok:16384' <<<"$info" || die "$node says: $info"
done

# What one is told, all know where to find (-c).
ask() {
    redis-cli -c -h "${node%:*}" -p "${node##*:}" "$@"
}
node=${nodes[0]}
[ "$(ask set greeting "hello from $run")" = OK ] || die "$node does not take a value"
for node in "${nodes[@]}"; do
    got=$(ask get greeting)
    [ "$got" = "hello from $run" ] || die "$node says: $got"
done
echo "ok: six nodes, cluster_state:ok at each, and all find what one was told"
