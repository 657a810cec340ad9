#!/usr/bin/env python3
"""Becomes a member without the .proto file: all there is to know comes by reflection.

    reflection.py ADDRESS ROOT.pem
"""

import secrets
import sys

from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import xlreg_client as xlreg

SERVICE = "xlreg.v2.Registry"


class Reflected:
    """The service's methods as functions of keyword arguments."""

    def __init__(self, channel, pool):
        self.pool = pool
        for method in pool.FindServiceByName(SERVICE).methods:
            request, answer = (
                message_factory.GetMessageClass(kind)
                for kind in (method.input_type, method.output_type)
            )
            call = channel.unary_stream if method.server_streaming else channel.unary_unary
            path = f"/{SERVICE}/{method.name}"
            remote = call(path, request.SerializeToString, answer.FromString)
            setattr(self, method.name, self.function(request, remote))

    @staticmethod
    def function(request, remote):
        return lambda **fields: remote(request(**fields), timeout=20)

    def number(self, enum, name):
        return self.pool.FindEnumTypeByName(f"xlreg.v2.{enum}").values_by_name[name].number


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    target, root = sys.argv[1], xlreg.read_root(sys.argv[2])
    nodes = [xlreg.Node(target, root, xlreg.root_sig_key(root)) for _ in range(2)]

    database = ProtoReflectionDescriptorDatabase(nodes[0].channel)
    assert SERVICE in database.get_services(), database.get_services()
    pool = descriptor_pool.DescriptorPool(database)
    for node in nodes:
        node.ask = Reflected(node.channel, pool)
    print(f"  ok  reflection tells of {', '.join(sorted(database.get_services()))}")

    # Newer tools ask for v1, whose messages are the same.
    ask = nodes[0].channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    services = next(ask(iter([request]), timeout=20)).list_services_response.service
    assert SERVICE in [one.name for one in services], services
    print("  ok  so does its version v1")

    for node in nodes:
        answer = node.ask.Register(
            comms_key=xlreg.spki(node.comms), comms_proof=node.comms_proof()
        )
        assert answer.node.sig_key_sha256 == node.sig_sha256, answer
        node.id = answer.node.id
    name = f"reflected_{secrets.token_hex(4)}"
    cluster = {"name": name}
    assert nodes[0].ask.CreateCluster(name=name, size=2).created
    stream = nodes[1].ask.WatchCluster(cluster=cluster)
    assert next(stream).WhichOneof("event") == "snapshot"
    for rank, node in enumerate(nodes):
        endpoints = [f"127.0.0.1:{4001 + rank}"]
        answer = node.ask.JoinCluster(cluster=cluster, name=f"m{rank}", endpoints=endpoints)
        assert answer.rank == rank, answer
    joined = nodes[0].ask.number("ChangeKind", "CHANGE_KIND_JOINED")
    for rank, node in enumerate(nodes):
        event = next(stream)
        assert event.change.kind == joined, event
        assert event.change.member.id == node.id, event
        assert event.complete == (rank == 1), event
    nodes[0].ask.DeleteCluster(cluster=cluster)
    assert next(stream).WhichOneof("event") == "gone"
    print("  ok  two nodes register, create, join, watch and delete without the .proto file")


if __name__ == "__main__":
    main()
