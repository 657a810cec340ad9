#!/usr/bin/env bash
#
# Shows with `openssl s_client` what a registry's handshake is: TLS 1.3 alone, below a pinned key.
#
#   openssl.sh ADDRESS ROOT.pem regCred.dat
#
# Needs openssl 3.0 or later, and nothing else.
set -euo pipefail

[ $# = 3 ] || { echo "usage: openssl.sh ADDRESS ROOT.pem regCred.dat" >&2; exit 2; }
address=$1 root=$(realpath "$2") credentials=$(realpath "$3")
host=${address%:*}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

die() {
    echo "error: openssl.sh: $*" >&2
    if [ -s out ]; then sed 's/^/   | /' out >&2; fi
    exit 1
}

proved() {
    echo "  ok  $*"
}

# says PATTERN: the last conversation has such a line.
says() {
    grep -aqE -- "$1" out || die "s_client does not say: $1"
}

# Connects, shakes hands, and ends. What is said is in `out`.
client() {
    local code=0
    timeout 20 openssl s_client -connect "$address" -alpn h2 "$@" </dev/null >out 2>&1 || code=$?
    return "$code"
}

# Connects and stays until the registry hangs up.
stay() {
    client -ign_eof "$@" || true
}

# await COMMAND...: until it succeeds.
await() {
    local tries=100
    until "$@"; do
        [ $((tries -= 1)) -gt 0 ] || die "waited 10 s for: $*"
        sleep 0.1
    done
}

node_key() {
    openssl req -x509 "${@:2}" -noenc -keyout "$1.key" -out "$1.pem" -subj "/CN=$1" 2>out
}

# The first of the fields of an ssh-rsa key in hex, and what is left. Each has its length before it.
take() {
    local bytes=$((16#${1:0:8}))
    field=${1:8:2*bytes} rest=${1:8+2*bytes}
}

# The sig key of regCred.dat as DER SubjectPublicKeyInfo.
pinned_key() {
    local field rest e n
    rest=$(awk '$1 == "SigPubKey:" { print $3 }' "$credentials" | openssl base64 -d -A | od -An -v -tx1 \
        | tr -d ' \n')
    take "$rest"
    [ "$field" = 7373682d727361 ] || die "the SigPubKey of regCred.dat is no ssh-rsa key"
    take "$rest"
    e=$field
    take "$rest"
    n=$field
    cat >spki.conf <<END
asn1 = SEQUENCE:spki
[spki]
algorithm = SEQUENCE:algorithm
key = BITWRAP,SEQUENCE:numbers
[algorithm]
oid = OID:rsaEncryption
parameters = NULL
[numbers]
n = INTEGER:0x$n
e = INTEGER:0x$e
END
    openssl asn1parse -genconf spki.conf -noout -out "$1"
}

node_key node -newkey rsa:2048
trust=(-CAfile "$root" -verify_return_error -x509_strict)
known=(-cert node.pem -key node.key)
case $host in
    *[!0-9.]*) named=(-verify_hostname "$host") ;;
    *) named=(-verify_ip "$host") ;;
esac

# ---- versions ----

for version in -tls1 -tls1_1 -tls1_2; do
    # At security level 0, old versions are offered by new libraries, too.
    if client "$version" -cipher ALL:@SECLEVEL=0; then die "$version was taken"; fi
    says "alert (protocol version|handshake failure)"
done
proved "TLS 1.0, 1.1 and 1.2 are refused with an alert"

client -tls1_3 "${trust[@]}" "${named[@]}" "${known[@]}" || die "the handshake fails"
says "^Verification: OK"
says "^New, TLSv1.3,"
proved "TLS 1.3: the chain verifies strictly below root.pem alone, and names $host"

# ---- what was agreed ----

group=$(grep -aoE "(Server Temp Key|Peer Temp Key|Negotiated TLS1.3 group): [A-Za-z0-9]+" out | head -n 1)
case $group in
    *": X25519" | *": X25519MLKEM768") proved "key exchange by ${group#*: }" ;;
    *) die "key exchange by something else: $group" ;;
esac
says "^Compression: NONE"
says "^ALPN protocol: h2"
says "^Early data was not sent"
proved "no compression, ALPN h2"
if client "${trust[@]}" "${known[@]}" -groups ffdhe2048; then die "a finite field group was taken"; fi
says "alert handshake failure"
proved "a finite field group is refused"
if client "${trust[@]}" "${known[@]}" -alpn http/1.1; then die "http/1.1 was taken"; fi
says "alert no application protocol"
proved "ALPN http/1.1 is refused with an alert"

# ---- the chain, and the pin ----

client -showcerts "${known[@]}" || true
awk '/^Server certificate/ { exit } /BEGIN CERT/ { n++; within = 1 } within { print >("shown" n ".pem") }
    /END CERT/ { within = 0 }' out
[ -s shown2.pem ] && [ ! -e shown3.pem ] || die "the chain is not a leaf and a root"
openssl x509 -in shown2.pem -outform DER -out shown2.der
openssl x509 -in "$root" -outform DER -out root.der
cmp shown2.der root.der || die "the second certificate is not root.pem"
proved "the chain is a leaf and root.pem"

pinned_key pinned.der
openssl x509 -in shown2.pem -noout -pubkey | openssl pkey -pubin -outform DER -out shown.der
pinned=$(openssl dgst -sha256 -r pinned.der) shown=$(openssl dgst -sha256 -r shown.der)
[ "${pinned%% *}" = "${shown%% *}" ] || die "regCred.dat has ${pinned%% *}, the root ${shown%% *}"
proved "the root's key is the sig key of regCred.dat: SHA-256 ${pinned%% *}"

node_key stranger -newkey rsa:2048
if client -CAfile stranger.pem -verify_return_error "${known[@]}"; then die "a wrong root was taken"; fi
says "self-signed certificate in certificate chain"
if client "${trust[@]}" "${known[@]}" -verify_hostname elsewhere.example; then
    die "a wrong host name was taken"
fi
says "hostname mismatch"
proved "another root, and another host's name, fail"

# ---- who we are ----

stay -tls1_3 "${trust[@]}"
says "alert certificate required"
proved "without a client certificate: alert, certificate required"
node_key curve -newkey ec -pkeyopt ec_paramgen_curve:P-256
node_key small -newkey rsa:1024
for kind in "curve certificate required" "small certificate unknown"; do
    stay -tls1_3 "${trust[@]}" -cert "${kind%% *}.pem" -key "${kind%% *}.key" -cipher ALL:@SECLEVEL=0
    says "alert ${kind#* }"
done
proved "a P-256 key and an RSA key of 1024 bits are refused"

# ---- later on the connection ----

# talk ARGUMENT...: a connection that is open, with what is written to the descriptor 3 sent as lines.
talk() {
    rm -f lines
    mkfifo lines
    timeout 20 openssl s_client -connect "$address" -alpn h2 "${trust[@]}" "$@" <lines >out 2>&1 &
    talker=$!
    exec 3>lines
}

talk "${known[@]}" -sess_out ticket
await test -s ticket
echo R >&3
await grep -aq RENEGOTIATING out
await grep -aq "wrong ssl version" out
exec 3>&-
wait "$talker" || true
[ "$(grep -ac '^New, TLSv1.3' out)" = 1 ] || die "there was a second handshake"
proved "there is no renegotiation: s_client's R has nothing to send"

openssl sess_id -in ticket -noout -text >out
says "Max Early Data: 0"
proved "tickets allow no early data"
talk "${known[@]}" -sess_in ticket
await grep -aqE "^(Reused|New), TLSv1.3" out
exec 3>&-
wait "$talker" || true
says "^Reused, TLSv1.3"
proved "a ticket resumes the session"
echo early >early
client "${trust[@]}" "${known[@]}" -sess_in ticket -early_data early || true
says "^Early data was (not sent|rejected)"
proved "early data is not taken"
