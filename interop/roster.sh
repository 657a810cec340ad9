#!/usr/bin/env bash
#
# Has two members join with the command, and checks the signed roster that they keep: with
# python/roster.py, with OpenSSL as docs/roster.md says, and with the command itself.
#
#   roster.sh regCred.dat ROOT.pem
#
# The binary is target/release/xlreg, or what $XLREG names; python3 (or $PYTHON) must have what
# python/requirements.txt says.
set -euo pipefail

[ $# = 2 ] || { echo "usage: roster.sh regCred.dat ROOT.pem" >&2; exit 2; }
credentials=$(realpath "$1") root=$(realpath "$2")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
xlreg=$(realpath "${XLREG:-$here/../target/release/xlreg}") python=${PYTHON:-python3}
case $python in */*) python=$(realpath -s "$python") ;; esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
export HOME=$scratch XDG_DATA_HOME=$scratch/data XLREG_REGISTRY=$credentials
cluster=signed_$$

fail() {
    echo "error: $*" >&2
    exit 1
}

"$xlreg" cluster create "$cluster" --size 2 >/dev/null 2>log || fail "$(cat log)"
for name in a b; do
    "$xlreg" join "$cluster" --name "$name" --endpoint "$name.example.org:4001" --no-wait \
        >/dev/null 2>log || fail "$(cat log)"
done
cp "data/xlreg/members/$cluster/b/roster.signed" alpha.signed
"$xlreg" cluster show "$cluster" --signed shown.signed >/dev/null
cmp alpha.signed shown.signed || fail "two signed rosters of one revision differ"

"$python" "$here/python/roster.py" alpha.signed --root "$root" >told || fail "roster.py refuses it"
[ "$(sed 1d told)" = "0 a a.example.org:4001
1 b b.example.org:4001" ] || fail "another roster: $(cat told)"
"$xlreg" cluster verify alpha.signed >/dev/null || fail "the command refuses it"
echo "  ok  a roster that a registry has just signed holds, by Python and by the command"

cp "$root" root.pem
awk '$0 == "```" { within = 0 } within { print } $0 == "```sh" { within = 1 }' "$here/../docs/roster.md" >commands
[ "$(bash -euo pipefail commands)" = "Verified OK" ] || fail "OpenSSL refuses it"
echo "  ok  the commands in the guide verify it with OpenSSL"

sed 's/^\( *endpoint: \)a/\1e/' alpha.signed >changed.signed
if bash -euo pipefail <(sed 's/alpha/changed/' commands) >/dev/null 2>&1; then
    fail "OpenSSL takes one that was changed"
fi
for verify in "$python $here/python/roster.py --root $root" "$xlreg cluster verify"; do
    if $verify changed.signed >told 2>&1; then fail "$verify takes one that was changed"; fi
    grep -q "member a (rank 0): its entry is not what its sig key signed" told || fail "$(cat told)"
done
echo "  ok  changed, it is refused by all three, and the member is named"
