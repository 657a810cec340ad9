#!/usr/bin/env python3
"""Watches a cluster until the registry stops, which says so.

    stopping.py ADDRESS ROOT.pem REGISTRY.proto

Prints "watching" once it is time to stop the registry.
"""

import sys
import tempfile

import grpc

import xlreg_client as xlreg


def main():
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    target, root = sys.argv[1], xlreg.read_root(sys.argv[2])
    with tempfile.TemporaryDirectory() as scratch:
        v2, stubs = xlreg.generate(sys.argv[3], scratch)
    node = xlreg.Node(target, root, xlreg.root_sig_key(root))
    ask = stubs.RegistryStub(node.channel)
    known = v2.RegisterRequest(comms_key=xlreg.spki(node.comms), comms_proof=node.comms_proof())
    ask.Register(known, timeout=20)
    ask.CreateCluster(v2.CreateClusterRequest(name="stopping", size=2), timeout=20)
    stream = ask.WatchCluster(
        v2.WatchClusterRequest(cluster=v2.ClusterRef(name="stopping")), timeout=60
    )
    assert next(stream).WhichOneof("event") == "snapshot"
    print("watching", flush=True)
    try:
        event = next(stream, None)
    except grpc.RpcError as error:
        info = xlreg.reason(error)
        told = f"{error.code().name} {info.reason if info else None}: {error.details()}"
        if error.code() != grpc.StatusCode.UNAVAILABLE or not info or info.reason != "SHUTTING_DOWN":
            raise SystemExit(f"error: stopping.py: the watch ended by {told}")
        print(f"  ok  a registry that stops tells its watchers: {told}")
        return
    raise SystemExit(f"error: stopping.py: expected an error, got {event}")


if __name__ == "__main__":
    main()
