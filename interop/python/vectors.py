#!/usr/bin/env python3
"""Proves that docs/roster.md suffices to check the test vectors: roster.py was written from it."""

import hashlib
import pathlib

import roster

ROOT = pathlib.Path(__file__).parents[2]
VECTORS = ROOT / "crates/xlreg-proto/tests/vectors"


def main():
    pin = bytes.fromhex("1c18f0ebea9c26b8e6c085e5473c9645a835effe454b383cc3241202ff8278da")
    assert pin.hex() in (VECTORS / "README.md").read_text()
    complete, partial = (
        (VECTORS / f"roster/{name}.signed").read_bytes() for name in ("complete", "partial")
    )
    read = roster.parse(complete)
    assert list(roster.findings(read, pin)) == [], list(roster.findings(read, pin))
    assert (read["name"], read["revision"], read["present"]) == ("alpha", 2, 2), read
    found = list(roster.findings(roster.parse(partial), pin))
    expected = ["member c (rank 2): it has not signed its entry", "it is incomplete: 2 of 4"]
    assert found == expected, found
    assert len(list(roster.findings(read, bytes(32)))) == 1
    print("  ok  the vectors read as they are said to")

    refused = 0
    for place in range(len(complete)):
        changed = bytearray(complete)
        changed[place] ^= 1 << place % 8
        try:
            assert any(roster.findings(roster.parse(bytes(changed)), pin)), f"byte {place}"
        except roster.Unreadable:
            refused += 1
    print(f"  ok  each of {len(complete)} bytes counts: changed, {refused} make it unreadable")

    member = {"id": "c3" * 20, "name": "ab", "attrs": "0x0102030405060708",
              "endpoints": ["h:1", "[::1]:22"]}
    prints = [bytes([byte]) * 32 for byte in (0xA1, 0xD4, 0xE5)]
    statement = roster.entry_statement(prints[0], "b2" * 20, member, *prints[1:])
    digest = hashlib.sha256(statement).hexdigest()
    guide = (ROOT / "docs/roster.md").read_text()
    assert digest in guide and f"{len(statement)} bytes" in guide, digest
    print(f"  ok  member entry: {len(statement)} bytes, SHA-256 {digest}")


if __name__ == "__main__":
    main()
