# To be sourced by a script that has a cluster with TLS: who is refused by its members, and what can be read
# of what goes over the wire between them.
#
# `die MESSAGE` is the sourcing script's, and it calls `wire_ends` when it ends. Needs bash and openssl, and for
# captures python3 on Linux with the right to do that (CAP_NET_RAW). Where the kernel grants that to nobody, it
# is said so, and the rest is shown all the same.

wire_dir=$(dirname "${BASH_SOURCE[0]}")
wire_scratch=$(mktemp -d)
wire_marker=plaintext-$RANDOM$RANDOM
wire_capture=

wire_ends() {
    if [ -n "$wire_capture" ]; then kill -KILL "$wire_capture" 2>/dev/null || true; fi
    rm -rf "$wire_scratch"
}

# capture PORT...: records what goes over loopback to and from these ports, until `captured`.
capture() {
    local code=0 line=
    coproc WIRE { exec "$wire_dir/capture.py" "$wire_scratch/pcap" "$@"; }
    wire_capture=$WIRE_PID
    read -r line <&"${WIRE[0]}" || true
    [ "$line" != capturing ] || return 0
    wait "$wire_capture" || code=$?
    wire_capture=
    [ "$code" = 77 ] || die "capture.py ends with $code"
    echo "-- there is no packet capture: the kernel permits none here"
}

# captured SECRET: the recording is complete; it has what was sent in plain words, and not the secret.
captured() {
    [ -n "$wire_capture" ] || return 0
    kill -TERM "$wire_capture"
    wait "$wire_capture" || die "the capture is not complete"
    wire_capture=
    local pcap=$wire_scratch/pcap
    grep -aqF "$wire_marker" "$pcap" || die "the capture lacks even what was sent in plain words"
    if grep -aqF "$1" "$pcap"; then die "the capture shows what was told in private"; fi
    echo "ok: $(wc -c <"$pcap") bytes captured on the wire, and what was told is not to be read in them"
}

# refuses_strangers HOST:PORT CA: whoever shows no certificate there, or one that CA doesn't trust, or speaks
# no TLS, is not served.
refuses_strangers() {
    if ! [ -e "$wire_scratch/key" ]; then
        openssl req -x509 -newkey rsa:2048 -noenc -subj /CN=member_0 -days 1 \
            -keyout "$wire_scratch/key" -out "$wire_scratch/cert" 2>"$wire_scratch/said" || die "no certificate"
    fi
    refuses_stranger "$@"
    refuses_stranger "$@" -cert "$wire_scratch/cert" -key "$wire_scratch/key"
    refuses_plain "$1"
}

refuses_stranger() {
    local said=$wire_scratch/said
    wire_request | timeout 10 openssl s_client -connect "$1" -CAfile "$2" -verify_return_error \
        -quiet -ign_eof "${@:3}" >"$said" 2>&1 || true
    grep -aqE 'alert (certificate required|bad certificate|unknown ca)' "$said" \
        || die "$1 says to a stranger: $(tr -cd '[:print:]\n' <"$said")"
    ! wire_served <"$said" || die "$1 serves a stranger"
}

refuses_plain() {
    local socket
    exec {socket}<>"/dev/tcp/${1%:*}/${1##*:}" || die "nobody listens at $1"
    # In a process of its own, which is ended by a server that hangs up at once.
    (wire_request >&"$socket") || true
    ! timeout 5 head -c 200 <&"$socket" 2>/dev/null | wire_served || die "$1 serves without TLS"
    exec {socket}>&-
}

# What etcd and Redis answer, each its own.
wire_request() {
    printf 'GET /version?%s HTTP/1.0\r\n\r\nPING\r\n' "$wire_marker"
}

wire_served() {
    grep -aqE 'etcdserver|PONG|HTTP/1.[01] 200'
}
