#!/usr/bin/env bash
#
# Shows with stock programs what `xlreg cluster export --format pem` promises: members meet by TLS, each
# under its own names, and nobody else is taken for one, in openssl's own words.
#
#   members.sh          with target/release/xlreg, or the binary that $XLREG names
#
# Needs openssl 3.0 or later, curl, python3 (or $PYTHON), and addresses 127.x.y.z. It starts a registry of its
# own and leaves nothing behind.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
xlreg=$(realpath "${XLREG:-$here/../target/release/xlreg}")
python=${PYTHON:-python3}
for variable in $(compgen -e XLREG_ || true); do unset "$variable"; done

scratch=$(mktemp -d)
registry=
server=
clean_up() {
    for process in $server $registry; do kill "$process" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' INT TERM
case $python in */*) python=$(realpath -s "$python") ;; esac
cd "$scratch"
export HOME=$scratch XDG_DATA_HOME=$scratch/data TMPDIR=$scratch

die() {
    echo "error: members.sh: $*" >&2
    tail -n 20 served met 2>/dev/null | sed 's/^/   | /' >&2
    exit 1
}

proved() {
    echo "  ok  $*"
}

# await COMMAND...: until it succeeds.
await() {
    local tries=200
    until "$@"; do
        [ $((tries -= 1)) -gt 0 ] || die "waited 20 s for: $*"
        sleep 0.1
    done
}

# ---- two clusters ----

: >ready
"$xlreg" serve --ephemeral --listen 127.0.0.1:0 >ready 2>log &
registry=$!
await grep -q "^xlreg: ready on" ready
XLREG_REGISTRY=$(sed -n 's/^.*, credentials in \(.*\)$/\1/p' ready)
export XLREG_REGISTRY

# cluster NAME MEMBER=HOST...: forms it, and exports all of its members.
cluster() {
    local name=$1 member
    shift
    "$xlreg" cluster create "$name" --size $# >told 2>&1 || die "$(cat told)"
    for member in "$@"; do
        "$xlreg" join "$name" --name "${member%=*}" --endpoint "${member#*=}:4000" --no-wait >told 2>&1 \
            || die "$(cat told)"
    done
    for member in "$@"; do
        "$xlreg" cluster export "$name" --name "${member%=*}" --format pem "${member%=*}" >told 2>&1 \
            || die "$(cat told)"
    done
}
# The impostor has an identity that is as good as anybody's, and b's address, in a roster of its own.
cluster alpha a=127.0.0.1 b=127.0.0.2 c=c.localhost
cluster beta impostor=127.0.0.2 other=127.0.0.3
kill "$registry"
wait "$registry" || true
registry=

# ---- what a member could try that holds its key, and can do more with it than we do ----

# anchor MEMBER: the certificate in its own bundle that trusts what it signs.
anchor() {
    local subject part
    subject=$(openssl x509 -in "$1/cert.pem" -noout -issuer -nameopt RFC2253)
    awk '/BEGIN/ { n++ } { print > ("part" n) }' "$1/roster-ca.pem"
    for part in part*; do
        if [ "$(openssl x509 -in "$part" -noout -subject -nameopt RFC2253)" = "subject=${subject#issuer=}" ]
        then
            cp "$part" "$1/anchor.pem"
        fi
    done
    rm -f part*
}

# forge MEMBER FILE KEY EXTENSIONS: what the member signs with its key, for that other key.
forge() {
    anchor "$1"
    openssl req -new -key "$3" -subj "/O=xlreg member/CN=b" -out request
    openssl x509 -req -in request -CA "$1/anchor.pem" -CAkey "$1/key.pem" -days 2 -out "$2" \
        -extfile <(printf '%b' "$4") 2>told || die "$(cat told)"
}
ends='keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\n'
forge c c/as-b.pem c/key.pem "${ends}subjectAltName=IP:127.0.0.2"
forge c c/below.pem c/key.pem "${ends}subjectAltName=DNS:below.c.localhost"
forge b b/other-key.pem impostor/key.pem "${ends}subjectAltName=IP:127.0.0.1"
# With the key of a, to a itself.
forge a a/as-b.pem a/key.pem "${ends}subjectAltName=IP:127.0.0.2"
forge c c/authority.pem impostor/key.pem \
    'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid'
openssl req -new -key impostor/key.pem -subj "/CN=c" -out request
openssl x509 -req -in request -CA c/authority.pem -CAkey impostor/key.pem -days 2 -out c/below-authority.pem \
    -extfile <(printf '%b' "${ends}subjectAltName=DNS:c.localhost") 2>told || die "$(cat told)"
cat c/authority.pem >>c/below-authority.pem

# ---- openssl, both sides ----

# serve MEMBER CERTIFICATE ARGUMENT...: a server that wants a certificate, too, for one connection.
serve() {
    : >served
    timeout 60 openssl s_server -accept 127.0.0.2:0 -naccept 1 -cert "$1/$2" -key "${key:-$1/key.pem}" \
        -cert_chain "$1/$2" -CAfile "$1/roster-ca.pem" -Verify 9 -verify_return_error -x509_strict -www \
        "${@:3}" >served 2>&1 </dev/null &
    server=$!
    await grep -q "^ACCEPT" served
    address=$(sed -n 's/^ACCEPT \(.*\)$/\1/p' served | head -n 1)
}

# meet MEMBER CERTIFICATE ARGUMENT...: connects to it, and asks for a page.
meet() {
    local code=0
    { printf 'GET / HTTP/1.0\r\n\r\n'; } | timeout 20 openssl s_client -connect "$address" -ign_eof \
        -cert "$1/$2" -key "${key:-$1/key.pem}" -cert_chain "$1/$2" -CAfile "$1/roster-ca.pem" \
        -verify_return_error -x509_strict "${@:3}" >met 2>&1 || code=$?
    wait "$server" || true
    server=
    grep -aq "HTTP/1.0 200 ok" met || return 1
    return "$code"
}

# refused WORDS WHAT: as `meet` has just ended, or not.
refused() {
    grep -aqE -- "$1" met served || die "$2 is not refused with: $1"
    if grep -aq "HTTP/1.0 200 ok" met; then die "$2 was served"; fi
    proved "$2: $(grep -ahoE -- "$1" met served | head -n 1)"
}

for version in -tls1_2 -tls1_3; do
    serve b cert.pem
    meet a cert.pem "$version" -verify_ip 127.0.0.2 || die "a does not meet b by $version"
    grep -aq "^Verification: OK" met || die "a does not verify b by $version"
    serve c cert.pem
    meet b cert.pem "$version" -verify_hostname c.localhost || die "b does not meet c by $version"
done
proved "members meet by TLS 1.2 and 1.3, strictly verified on both sides, under address and name"
serve b cert.pem
id=$(openssl x509 -in b/cert.pem -noout -ext subjectAltName | grep -oE '[0-9a-f]{40}\.xlreg')
meet a cert.pem -verify_hostname "$id" || die "b is not known as $id"
proved "a member is known by its ID, too: $id"

serve b cert.pem
meet a cert.pem -verify_ip 127.0.0.1 || true
refused "IP address mismatch" "a member at another's address"
serve c as-b.pem
meet a cert.pem -verify_ip 127.0.0.2 || true
refused "excluded subtree violation" "a member with a certificate that it made for another's address"
serve b cert.pem
meet c as-b.pem || true
refused "excluded subtree violation" "the same as a client"
serve c below.pem
meet a cert.pem -verify_hostname below.c.localhost || true
refused "excluded subtree violation" "a member with a certificate for a name below its own"
key=impostor/key.pem serve b other-key.pem
meet a cert.pem -verify_ip 127.0.0.1 || true
refused "permitted subtree violation" "a stranger's key that a member certifies for another's address"
key=impostor/key.pem serve c below-authority.pem
meet a cert.pem -verify_hostname c.localhost || true
refused "path length constraint exceeded" "a stranger below an authority that a member made"
serve a as-b.pem
meet a cert.pem -verify_ip 127.0.0.2 || true
refused "permitted subtree violation" "the thief of a's key, posing to a as another"

serve impostor cert.pem
meet a cert.pem -verify_ip 127.0.0.2 || true
refused "self-signed certificate in certificate chain|unable to get local issuer certificate" \
    "another cluster's member at that address"
serve b cert.pem
meet impostor cert.pem -CAfile a/roster-ca.pem || true
refused "alert unknown ca" "another cluster's member as a client"
if openssl s_server -accept 127.0.0.2:0 -cert b/cert.pem -key c/key.pem >met 2>&1 </dev/null; then
    die "a certificate was taken with another's key"
fi
: >served
refused "key values mismatch" "a member's certificate with another's key"
later=$(($(date +%s) + 91 * 24 * 3600))
serve b cert.pem
meet a cert.pem -attime "$later" || true
refused "certificate has expired" "a certificate after its 90 days"
serve b cert.pem -attime "$later"
meet a cert.pem || true
refused "alert certificate expired" "the same as a client"
serve b cert.pem
openssl s_client -connect "$address" -CAfile a/roster-ca.pem -ign_eof >met 2>&1 </dev/null || true
wait "$server" || true
server=
refused "alert certificate required" "no certificate"

# ---- others ----

ask() {
    curl -sS --cert "$1/cert.pem" --key "$1/key.pem" --cacert "$1/roster-ca.pem" "https://$address/" >met 2>&1
}
serve b cert.pem
ask a || die "curl does not reach b as a"
wait "$server" || true
serve impostor cert.pem
if ask a; then die "curl takes an impostor"; fi
wait "$server" || true
server=
grep -q "SSL certificate problem" met || die "curl does not say that it is the certificate"
proved "curl meets a member, and refuses an impostor"

"$python" "$here/python/members.py" || die "members.py failed"
