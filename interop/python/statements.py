#!/usr/bin/env python3
"""Checks the worked example of docs/operations/clients.md, and prints it.

The fingerprints are made up, so that the bytes can be read.
"""

import hashlib
import pathlib

import xlreg_client as xlreg

REGISTRY, OLD_SIG, NEW_SIG, COMMS = (bytes([byte]) * 32 for byte in (0xA1, 0xB2, 0xC3, 0xD4))

STATEMENTS = {
    "comms key": xlreg.comms_statement(REGISTRY, NEW_SIG, COMMS),
    "rotate keys": xlreg.rotation_statement(REGISTRY, OLD_SIG, NEW_SIG, COMMS),
    "rotate keys, no comms key": xlreg.rotation_statement(
        REGISTRY, OLD_SIG, NEW_SIG, xlreg.NO_KEY
    ),
}


def main():
    guide = pathlib.Path(__file__).parents[2] / "docs/operations/clients.md"
    text = guide.read_text()
    for name, statement in STATEMENTS.items():
        digest = hashlib.sha256(statement).hexdigest()
        if digest not in text:
            raise SystemExit(f"error: {guide} lacks {digest} for {name}, {len(statement)} bytes")
        print(f"  ok  {name}: {len(statement)} bytes, SHA-256 {digest}")


if __name__ == "__main__":
    main()
