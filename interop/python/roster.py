#!/usr/bin/env python3
"""Checks a signed roster, with nothing but Python and its cryptography package. To be copied from.

    roster.py FILE --pin SHA256      by the SHA-256 of the registry's sig key
    roster.py FILE --root ROOT.pem   by its root certificate, as `xlreg cred export` writes it

docs/roster.md has the format. Prints what does not match, and ends with 1; or who is in the cluster.
"""

import argparse
import base64
import hashlib
import pathlib
import re
import sys

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

BYTES_MAX, LINE_BYTES_MAX, MEMBERS_MAX, ENDPOINTS_MAX = 1 << 20, 4096, 64, 8

ID = r"[0-9a-f]{40}"
NAME = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
ATTRS = r"0x[0-9a-f]{16}"
NUMBER = r"0|[1-9][0-9]{0,19}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
KEY = r"ssh-rsa [A-Za-z0-9+/]+={0,2}"
ENDPOINT = r"[\[\]A-Za-z0-9_.:-]{3,260}"
SIGNATURE = r"[A-Za-z0-9+/]{340,684}={0,2}"


class Unreadable(Exception):
    """The file is no signed roster, or not in its one form. The text says where."""


def spki_sha256(key):
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).digest()


class Reader:
    """The lines of a file, each of which must be exactly what belongs there."""

    def __init__(self, data):
        if len(data) > BYTES_MAX:
            raise Unreadable("more than 1 MiB")
        try:
            text = data.decode("ascii")
        except UnicodeDecodeError as error:
            line = 1 + data[: error.start].count(b"\n")
            raise Unreadable(f"line {line}: not ASCII") from None
        self.lines, self.number, self.depth = text.split("\n"), 0, 0

    def fail(self, expected):
        raise Unreadable(f"line {self.number}: expected {expected}")

    def peek(self):
        return self.lines[self.number] if self.number < len(self.lines) else ""

    def line(self, wanted, pattern):
        line = self.peek()
        self.number += 1
        if len(line) > LINE_BYTES_MAX:
            self.fail("a shorter line")
        found = re.fullmatch("    " * self.depth + pattern, line, re.ASCII)
        if not found:
            self.fail(wanted)
        return found

    def open(self, block):
        self.line(f"`{block} {{`", re.escape(f"{block} {{"))
        self.depth += 1

    def close(self):
        self.depth -= 1
        self.line("`}`", r"\}")

    def at_end_of_block(self):
        return self.peek() == "    " * (self.depth - 1) + "}"

    def value(self, key, pattern):
        return self.line(f"`{key}: ...`", f"{key}: ({pattern})")[1]

    def number_of(self, key, least, most):
        number = int(self.value(key, NUMBER))
        return number if least <= number <= most else self.fail(f"{key} from {least} to {most}")

    def key(self, key):
        text = self.value(key, KEY)
        try:
            read = serialization.load_ssh_public_key(text.encode())
        except ValueError:
            self.fail(f"{key} to be a key")
        form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        if not isinstance(read, rsa.RSAPublicKey) or not 1024 <= read.key_size <= 4096:
            self.fail(f"{key} to be an RSA key of 1024 to 4096 bits")
        if read.public_bytes(*form) != text.encode():
            self.fail(f"{key} in its one form")
        return read

    def base64(self, key, also=None):
        text = self.value(key, SIGNATURE if also is None else f"{SIGNATURE}|{also}")
        if text == also:
            return None
        try:
            read = base64.b64decode(text, validate=True)
        except ValueError:
            self.fail(f"{key} in base64")
        if base64.b64encode(read).decode() != text or not 256 <= len(read) <= 512:
            self.fail(f"{key} to be a signature")
        return read

    def end(self):
        if self.number != len(self.lines) - 1 or self.peek():
            self.number += 1
            self.fail("the end")


def parse(data):
    """The roster in a file's bytes, unverified."""
    r, roster = Reader(data), {}
    r.line("`xlreg-roster 1`", "xlreg-roster 1")
    r.open("registry")
    roster["registry"] = {"id": r.value("id", ID), "name": r.value("name", NAME),
                          "sig": r.key("sigKey")}
    r.close()
    r.open("cluster")
    roster |= {"id": r.value("id", ID), "name": r.value("name", NAME),
               "size": r.number_of("size", 2, 64), "asked": r.number_of("endpointCount", 1, 2),
               "attrs": r.value("attrs", ATTRS), "revision": r.number_of("revision", 0, 2**64 - 1)}
    complete = r.value("complete", "yes|no"), r.number
    r.close()
    roster["signed"] = r.value("signed", TIME)
    r.open("members")
    roster["members"] = members = []
    while not r.at_end_of_block() and len(members) < MEMBERS_MAX:
        r.open("member")
        member = {"rank": r.number_of("rank", 0, 63), "state": r.value("state", "present|left"),
                  "id": r.value("id", ID), "name": r.value("name", NAME),
                  "attrs": r.value("attrs", ATTRS), "sig": r.key("sigKey"),
                  "comms": r.key("commsKey"), "endpoints": []}
        r.open("endpoints")
        while not member["endpoints"] or not r.at_end_of_block():
            if len(member["endpoints"]) == ENDPOINTS_MAX:
                r.fail("at most 8 endpoints")
            member["endpoints"].append(r.value("endpoint", ENDPOINT))
        r.close()
        member["signature"] = r.base64("entrySignature", "none")
        r.close()
        members.append(member)
    r.close()
    # Every byte before the last line.
    roster["content"] = "\n".join(r.lines[: r.number]).encode() + b"\n"
    roster["signature"] = r.base64("signature")
    r.end()
    roster["present"] = sum(member["state"] == "present" for member in members)
    expected = "yes" if roster["present"] >= roster["size"] else "no"
    if complete[0] != expected:
        raise Unreadable(f"line {complete[1]}: expected `complete: {expected}`")
    return roster


def entry_statement(registry, cluster, member, sig, comms):
    """What a member signs. The registry's and the member's keys by their SHA-256."""
    def counted(text):
        return len(text).to_bytes(2, "big") + text.encode()

    return b"".join([
        b"xlreg.v2 member entry\n", registry, bytes.fromhex(cluster), bytes.fromhex(member["id"]),
        counted(member["name"]), bytes.fromhex(member["attrs"][2:]), sig, comms,
        len(member["endpoints"]).to_bytes(2, "big"), *map(counted, member["endpoints"]),
    ])


def holds(key, signature, content):
    """Whether `key` made this signature: RSASSA-PKCS1-v1_5 with SHA-256."""
    if key.key_size < 2048:
        return False
    try:
        key.verify(signature, content, padding.PKCS1v15(), hashes.SHA256())
        return True
    except InvalidSignature:
        return False


def findings(roster, pin):
    """What does not match, a text for each. `pin` is the SHA-256 of the registry's sig key."""
    registry = spki_sha256(roster["registry"]["sig"])
    if registry != pin:
        yield f"it is by the registry with sig key sha256 {registry.hex()}"
    if not holds(roster["registry"]["sig"], roster["signature"], roster["content"]):
        yield "the registry's signature does not verify"
    last, seen = -1, set()
    for member in roster["members"]:
        who = f"member {member['name']} (rank {member['rank']})"
        keys = spki_sha256(member["sig"]), spki_sha256(member["comms"])
        if member["signature"] is None:
            yield f"{who}: it has not signed its entry"
        else:
            statement = entry_statement(registry, roster["id"], member, *keys)
            if not holds(member["sig"], member["signature"], statement):
                yield f"{who}: its entry is not what its sig key signed"
        if not last < member["rank"] < roster["size"]:
            yield f"{who}: its rank is out of order or of range"
        if len(member["endpoints"]) < roster["asked"]:
            yield f"{who}: too few endpoints"
        for thing in (member["name"], member["id"]):
            if thing in seen:
                yield f"{who}: {thing} is another member's, too"
            seen.add(thing)
        last = member["rank"]
    if roster["present"] < roster["size"]:
        yield f"it is incomplete: {roster['present']} of {roster['size']}"


def root_pin(path):
    return spki_sha256(x509.load_pem_x509_certificate(pathlib.Path(path).read_bytes()).public_key())


def main():
    parser = argparse.ArgumentParser(description="Checks a signed roster of xlreg's.")
    parser.add_argument("file", type=pathlib.Path)
    pins = parser.add_mutually_exclusive_group(required=True)
    pins.add_argument("--pin", type=bytes.fromhex, metavar="SHA256")
    pins.add_argument("--root", dest="pin", type=root_pin, metavar="ROOT.pem")
    given = parser.parse_args()
    try:
        roster = parse(given.file.read_bytes())
    except Unreadable as error:
        sys.exit(f"{given.file}: {error}")
    found = list(findings(roster, given.pin))
    if found:
        sys.exit("\n".join(f"{given.file}: {one}" for one in found))
    print(f"cluster {roster['name']}, revision {roster['revision']}, signed {roster['signed']}")
    for member in roster["members"]:
        print(member["rank"], member["name"], *member["endpoints"])


if __name__ == "__main__":
    main()
