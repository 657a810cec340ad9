#!/usr/bin/env bash
#
# Shows with OpenSSH what `xlreg cluster export --format ssh` promises: each member's sshd has no files but
# these, members log in to each other, and nobody else is let in or taken for one of them.
#
#   ssh.sh          with target/release/xlreg, or the binary that $XLREG names
#
# Needs OpenSSH's sshd and ssh, python3, and addresses 127.x.y.z. Members are a run of xlreg's, which leaves nothing
# behind.
set -euo pipefail
xlreg=$(realpath "${XLREG:-$(dirname "${BASH_SOURCE[0]}")/../target/release/xlreg}")
sshd=$(PATH=$PATH:/usr/sbin:/sbin command -v sshd) || { echo "error: there is no sshd" >&2; exit 1; }
for variable in $(compgen -e XLREG_ || true); do unset "$variable"; done

scratch=$(mktemp -d)
export XLREG_RUN_DIR=$scratch XLREG_KEY_POOL=$scratch/keys
clean_up() {
    "$xlreg" down --all >/dev/null || true
    rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' INT TERM

die() {
    echo "error: ssh.sh: $*" >&2
    "$xlreg" logs -c alpha -n 40 2>/dev/null | sed 's/^/   | /' >&2 || true
    exit 1
}

proved() {
    echo "  ok  $*"
}

# As root, sshd wants a directory to lock itself into.
if [ "$(id -u)" = 0 ]; then mkdir -p -m 0755 /run/sshd; fi

# cluster NAME: two members, each an sshd that knows nothing but its own files. They are below a directory that
# everybody may write to, which StrictModes would mind.
cluster() {
    "$xlreg" run -n 2 --cluster "$1" --address own --detach --ready tcp --env XLREG="$xlreg" -- sh -c '
        "$XLREG" cluster export {cluster} --format ssh --offline --identity {dir} {dir}/ssh &&
        exec '"$sshd"' -D -e -f /dev/null -o ListenAddress={endpoint} -o PidFile=none \
            -o HostKey={dir}/ssh/ssh_key -o AuthorizedKeysFile={dir}/ssh/authorized_keys -o StrictModes=no \
            -o UsePAM=no -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no' 2>"$scratch/said" \
        || { cat "$scratch/said" >&2; die "$1 does not get up"; }
}
cluster alpha >/dev/null
cluster beta >/dev/null

# of CLUSTER RANK FIELD: what `xlreg ps` tells of a member.
of() {
    "$xlreg" ps "$1" --output json | python3 -c '
import json, sys
print(json.load(sys.stdin)["run"]["members"][int(sys.argv[1])][sys.argv[2]])' "$2" "$3" | tr -d "[]'"
}
a=$(of alpha 0 dir) b=$(of alpha 1 dir) b_at=$(of alpha 1 endpoints)
impostor=$(of beta 0 dir) impostor_at=$(of beta 0 endpoints)
a_id=$(awk 'NR == 1 { n = split($1, names, ","); print names[n] }' "$a/ssh/known_hosts")
b_id=$(awk 'NR == 2 { n = split($1, names, ","); print names[n] }' "$a/ssh/known_hosts")

# login DIR ADDRESS ARGUMENT...: runs a command there, with that member's files and no others.
login() {
    # Of an option that is given twice, ssh takes the first.
    ssh -F /dev/null "${@:3}" -i "$1/ssh/ssh_key" -o IdentitiesOnly=yes -o BatchMode=yes \
        -o StrictHostKeyChecking=yes -o UserKnownHostsFile="$1/ssh/known_hosts" \
        -o GlobalKnownHostsFile=/dev/null -o LogLevel=ERROR -p "${2##*:}" "$(id -un)@${2%:*}" 'echo here: $SSH_CONNECTION' >"$scratch/said" 2>&1
}

# refused WORDS WHAT: as the login that was tried has just ended.
refused() {
    grep -qE -- "$1" "$scratch/said" || die "$2 is not refused with: $1, but: $(cat "$scratch/said")"
    if grep -q "^here:" "$scratch/said"; then die "$2 was let in"; fi
    proved "$2: $(grep -oE -- "$1" "$scratch/said" | head -n 1)"
}

login "$a" "$b_at" || die "a is not let in by b: $(cat "$scratch/said")"
grep -q "^here: .*${b_at%:*} ${b_at##*:}\$" "$scratch/said" || die "a is elsewhere: $(cat "$scratch/said")"
login "$b" "$(of alpha 0 endpoints)" || die "b is not let in by a: $(cat "$scratch/said")"
proved "members log in to each other with their own keys, and know each other's host keys"
login "$a" "$b_at" -o HostKeyAlias="$b_id" || die "b is not known as $b_id: $(cat "$scratch/said")"
proved "a member's host key is known under its ID, too: $b_id"

if login "$impostor" "$b_at" -o UserKnownHostsFile="$a/ssh/known_hosts"; then die "an impostor was let in"; fi
refused "Permission denied \(publickey\)" "another cluster's member"
if login "$a" "$b_at" -o HostKeyAlias="$a_id"; then die "b was taken for a"; fi
refused "Host key verification failed" "a member in another's place"
if login "$a" "$impostor_at" -o HostKeyAlias="$b_id"; then die "an impostor was taken for b"; fi
refused "Host key verification failed" "another cluster's member in a member's place"
if login "$a" "$impostor_at"; then die "a stranger was taken for a member"; fi
refused "Host key verification failed" "a host that is in no roster"
