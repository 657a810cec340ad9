#!/usr/bin/env bash
#
# Runs docs/operations/clients.md: the commands and the programs in it, as they stand there.
#
#   guide.sh ADDRESS ROOT.pem
#
# python3 (or $PYTHON) and ruby must have what README.md says.
set -euo pipefail

[ $# = 2 ] || { echo "usage: guide.sh ADDRESS ROOT.pem" >&2; exit 2; }
address=$1 root=$(realpath "$2") python=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
guide=$here/../docs/operations/clients.md api=$here/../crates/xlreg-api

scratch=$(mktemp -d)
member=
clean_up() {
    if [ -n "$member" ]; then kill "$member" 2>/dev/null || true; fi
    rm -rf "$scratch"
}
trap clean_up EXIT
case $python in */*) python=$(realpath -s "$python") ;; esac
cd "$scratch"

# block LANGUAGE: all that the guide has in it.
block() {
    awk -v begin="\`\`\`$1" '$0 == "```" { within = 0 } within { print } $0 == begin { within = 1 }' "$guide"
}

cp "$root" root.pem
cp "$api/src/descriptors.bin" .
"$python" -m grpc_tools.protoc -I "$api/proto" --python_out=. --grpc_python_out=. xlreg/v2/registry.proto
block sh >commands.sh
block python >member.py
block ruby >member.rb
bash -euo pipefail commands.sh >told 2>log || { cat log >&2; exit 1; }
grep -qF "$(cut -d ' ' -f 1 told)" "$guide" || { echo "error: the guide has another digest" >&2; exit 1; }
echo "  ok  the commands in the guide run, and print the digest that it tells"

timeout 60 "$python" member.py "$address" >python.out &
member=$!
timeout 60 ruby -I "$here/ruby" member.rb "$address" >ruby.out
wait "$member"
member=
for roster in python.out ruby.out; do
    tail -n 1 "$roster" | grep -q '"\?.python' && tail -n 1 "$roster" | grep -q ruby \
        || { echo "error: $roster: $(cat "$roster")" >&2; exit 1; }
done
echo "  ok  the programs in the guide meet: $(tail -n 1 python.out)"
