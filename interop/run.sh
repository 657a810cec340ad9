#!/usr/bin/env bash
#
# Proves with stock tools what a registry's modern door promises: starts an ephemeral registry, runs
# everything in here against it, and leaves nothing behind.
#
#   interop/run.sh          with target/release/xlreg, or the binary that $XLREG names
#
# It installs nothing. python3 (or $PYTHON) must have what python/requirements.txt says, and ruby the
# gem grpc.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

xlreg=${XLREG:-target/release/xlreg}
python=${PYTHON:-python3}
proto=crates/xlreg-api/proto/xlreg/v2/registry.proto
descriptors=crates/xlreg-api/src/descriptors.bin
# Our own settings must not leak into what is tested; nor should gRPC tell of each broken channel.
for variable in $(compgen -e XLREG_ || true); do unset "$variable"; done
export GRPC_VERBOSITY=${GRPC_VERBOSITY:-NONE} PYTHONDONTWRITEBYTECODE=1

server=
scratch=$(mktemp -d)
clean_up() {
    if [ -n "$server" ]; then
        kill -9 "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' INT TERM
# The registry's own files, too.
export TMPDIR=$scratch

die() {
    echo "error: $*" >&2
    if [ -s "$scratch/log" ]; then sed 's/^/   | /' "$scratch/log" >&2; fi
    exit 1
}

[ -x "$xlreg" ] || die "there is no $xlreg; build it with cargo build --release, or set XLREG"

# ---- a registry ----

: >"$scratch/ready"
"$xlreg" serve --ephemeral --listen 127.0.0.1:0 >"$scratch/ready" 2>"$scratch/log" &
server=$!
tries=300
until grep -q "^xlreg: ready on" "$scratch/ready"; do
    kill -0 "$server" 2>/dev/null || die "the registry has ended"
    [ $((tries -= 1)) -gt 0 ] || die "the registry does not get ready"
    sleep 0.1
done
read -r address credentials < <(sed -n 's/^xlreg: ready on \(.*\), credentials in \(.*\)$/\1 \2/p' \
    "$scratch/ready")
root=$scratch/root.pem
# It makes an identity to ask with, which must not be left in anybody's home.
HOME=$scratch XDG_DATA_HOME=$scratch/data "$xlreg" cred export "$credentials" >"$root" \
    || die "there is no root certificate"

# ---- the proofs ----

echo "openssl.sh"
interop/openssl.sh "$address" "$root" "$credentials" || die "openssl.sh failed"

echo "python/prove.py"
"$python" interop/python/prove.py "$address" "$root" "$proto" || die "prove.py failed"

echo "docs/roster.md"
"$python" interop/python/vectors.py || die "vectors.py failed"
PYTHON=$python XLREG=$xlreg interop/roster.sh "$credentials" "$root" || die "roster.sh failed"

echo "python/reflection.py"
"$python" interop/python/reflection.py "$address" "$root" || die "reflection.py failed"

echo "ruby/member.rb"
members=()
for member in a b c; do
    ruby interop/ruby/member.rb "$address" "$root" "$descriptors" rubies 3 "$member" \
        "127.0.0.1:400${#members[@]}" >"$scratch/$member" &
    members+=($!)
done
for member in "${members[@]}"; do
    wait "$member" || die "a member in Ruby failed"
done
cmp "$scratch/a" "$scratch/b" && cmp "$scratch/a" "$scratch/c" || die "the rosters differ"
[ "$(awk '{ print $1 }' "$scratch/a" | tr -d '\n')" = 012 ] || die "not three ranks: $(cat "$scratch/a")"
sed 's/^/      /' "$scratch/a"
echo "  ok  three members in Ruby have the same roster"

echo "docs/operations/clients.md"
"$python" interop/python/statements.py || die "statements.py failed"
PYTHON=$python interop/guide.sh "$address" "$root" || die "guide.sh failed"

echo "python/stopping.py"
: >"$scratch/stopping"
"$python" interop/python/stopping.py "$address" "$root" "$proto" >"$scratch/stopping" &
watcher=$!
tries=300
until grep -q "^watching" "$scratch/stopping"; do
    kill -0 "$watcher" 2>/dev/null || die "stopping.py has ended"
    [ $((tries -= 1)) -gt 0 ] || die "stopping.py does not watch"
    sleep 0.1
done
kill -TERM "$server"
wait "$server" || die "SIGTERM ended the registry with exit code $?"
server=
wait "$watcher" || die "stopping.py failed"
sed 1d "$scratch/stopping"
