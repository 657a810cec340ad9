#!/usr/bin/env python3
"""Proves with stock gRPC what registry.proto promises. Every claim is asserted.

    prove.py ADDRESS ROOT.pem REGISTRY.proto
"""

import datetime
import re
import sys
import tempfile
import time
import traceback

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from google.protobuf import descriptor_pool, duration_pb2, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import roster
import xlreg_client as xlreg
from xlreg_client import Node

DEADLINE = 20


def check(holds, claim):
    if not holds:
        raise AssertionError(claim)


def equal(got, expected, what):
    check(got == expected, f"{what}: expected {expected!r}, got {got!r}")


def proved(claim):
    print(f"  ok  {claim}", flush=True)


def documented(proto):
    """The status of each reason, and whether it tells when to ask again, as ErrorReason has it."""
    pattern = r"// ([A-Z_]+)(, with RetryInfo)?: (?:.*\n\s*//)*.*\n\s*ERROR_REASON_(\w+) ="
    found = re.findall(pattern, open(proto).read())
    statuses = {reason: status for status, _, reason in found}
    return statuses, {reason for _, retry, reason in found if retry}


class Proof:
    def __init__(self, target, root_path, proto, scratch):
        self.target = target
        self.root = xlreg.read_root(root_path)
        self.sig_key = xlreg.root_sig_key(self.root)
        self.v2, self.stubs = xlreg.generate(proto, scratch)
        self.statuses, self.retried = documented(proto)
        reasons = set(self.v2.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
        equal({f"ERROR_REASON_{name}" for name in self.statuses}, reasons, "documented reasons")
        # Names of clusters, so that this can be run twice against one registry.
        self.suffix = xlreg.new_key().private_numbers().p % 10**8
        self.met = set()

    # ---- what the proofs share ----

    def node(self, registered=True):
        node = Node(self.target, self.root, self.sig_key)
        self.connected(node)
        if registered:
            node.id = self.register(node).node.id
        return node

    def connected(self, node):
        node.connect()
        node.ask = self.stubs.RegistryStub(node.channel)
        return node

    def register(self, node, **fields):
        given = {"comms_key": xlreg.spki(node.comms), "comms_proof": node.comms_proof(), **fields}
        return node.ask.Register(self.v2.RegisterRequest(**given), timeout=DEADLINE)

    def name(self, stem):
        return f"{stem}_{self.suffix}"

    def ref(self, stem):
        return self.v2.ClusterRef(name=self.name(stem))

    def call(self, node, method, **fields):
        request = getattr(self.v2, f"{method}Request")(**fields)
        return getattr(node.ask, method)(request, timeout=DEADLINE)

    def create(self, node, stem, size=2, **fields):
        return self.call(node, "CreateCluster", name=self.name(stem), size=size, **fields)

    def join(self, node, stem, name, port=4001, **fields):
        given = {"endpoints": [f"127.0.0.1:{port}"], **fields}
        return self.call(node, "JoinCluster", cluster=self.ref(stem), name=name, **given)

    def refused(self, reason, ask, *arguments, **fields):
        """The call is refused for this reason, with the documented status. Its metadata."""
        try:
            answer = ask(*arguments, **fields)
        except grpc.RpcError as error:
            info = xlreg.reason(error)
            told = f"{error.code().name} {info.reason if info else None}: {error.details()}"
            check(info is not None and info.reason == reason, f"expected {reason}, got {told}")
            equal(error.code().name, self.statuses[reason], f"the status of {reason}")
            check(error.details(), f"{reason} has no text")
            check(reason not in self.retried or xlreg.retry_after(error), f"{reason}: no RetryInfo")
            self.met.add(reason)
            return dict(info.metadata)
        raise AssertionError(f"expected {reason}, got an answer: {answer}")

    def differs(self, what, got, expected, ask, *arguments, **fields):
        """The call is refused for the documented reason, or for another that is known."""
        try:
            self.refused(expected, ask, *arguments, **fields)
        except AssertionError:
            self.refused(got, ask, *arguments, **fields)
            print(f"  --  {what}: answered {got}, though the .proto file says {expected}")

    def unreachable(self, credentials, words, claim):
        """No call comes through on a channel with these credentials."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(self.target, credentials, options) as channel:
            ask = self.stubs.RegistryStub(channel)
            try:
                ask.GetRegistry(self.v2.GetRegistryRequest(), timeout=DEADLINE)
            except grpc.RpcError as error:
                equal(error.code(), grpc.StatusCode.UNAVAILABLE, claim)
                said = error.details()
                check(any(word in said for word in words), f"{claim}: not for its reason: {said}")
                return
        raise AssertionError(f"{claim}: it was answered")

    def watch(self, node, stem, after=None, by_id=None):
        cluster = self.v2.ClusterRef(id=by_id) if by_id else self.ref(stem)
        request = self.v2.WatchClusterRequest(cluster=cluster, after_revision=after)
        return node.ask.WatchCluster(request, timeout=DEADLINE)

    def change(self, stream, kind, revision, rank=None):
        """The next event is this change; its member."""
        event = next(stream)
        equal(event.WhichOneof("event"), "change", f"the event of revision {revision}")
        equal(event.revision, revision, "an event's revision")
        got = self.v2.ChangeKind.Name(event.change.kind).removeprefix("CHANGE_KIND_")
        equal(got, kind, f"the change of revision {revision}")
        if rank is not None:
            equal(event.change.member.rank, rank, f"the rank of {kind}")
        return event

    # ---- the proofs ----

    def handshake(self):
        stranger = xlreg.new_key()
        name = "xlreg registry"
        wrong = xlreg.pem(xlreg.certificate(stranger, name))
        key = xlreg.new_key()
        failed = ["CERTIFICATE_VERIFY_FAILED", "certificate verify failed"]
        self.unreachable(xlreg.credentials(wrong, key), failed, "a wrong root")
        proved("a channel that trusts another root fails in the handshake")

        # In TLS 1.3 the client is done before it is refused, and gRPC has many words for that;
        # openssl.sh shows the alert.
        bare = grpc.ssl_channel_credentials(self.root)
        self.unreachable(bare, [""], "no client certificate")
        proved("a channel without a client certificate is refused")

        # The key is who we are; the rest of the certificate is paper.
        day = datetime.timedelta(days=1)
        now = datetime.datetime.now(datetime.timezone.utc)
        papers = {
            "expired": xlreg.certificate(key, dates=(now - 2 * day, now - day)),
            "not valid yet": xlreg.certificate(key, dates=(now + day, now + 2 * day)),
            "signed by somebody else": xlreg.certificate(key, signer=stranger),
        }
        for what, shown in papers.items():
            given = xlreg.credentials(self.root, key, shown)
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.secure_channel(self.target, given, options) as channel:
                ask = self.stubs.RegistryStub(channel)
                ask.GetRegistry(self.v2.GetRegistryRequest(), timeout=DEADLINE)
        proved(f"a client's certificate may be {', '.join(papers)}: only its key counts")

    def registry(self):
        node = self.node(registered=False)
        told = self.call(node, "GetRegistry")
        equal(told.sig_key, self.sig_key, "the sig key of GetRegistry and the root's")
        root = x509.load_pem_x509_certificate(self.root)
        der = root.public_bytes(serialization.Encoding.DER)
        equal(told.root_certificate, der, "the root of GetRegistry and ours")
        equal(len(told.id), 20, "the length of the registry's ID")
        check(abs(told.time.seconds - time.time()) < 60, "the registry's time is far from ours")
        proved(f"GetRegistry tells the root that we trust; {told.name}, version {told.version}")

        # The name that fits wherever the registry is reached.
        options = [
            ("grpc.ssl_target_name_override", f"{told.id.hex()}.xlreg"),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        given = xlreg.credentials(self.root, node.sig)
        with grpc.secure_channel(self.target, given, options) as channel:
            again = self.stubs.RegistryStub(channel).GetRegistry(
                self.v2.GetRegistryRequest(), timeout=DEADLINE
            )
        equal(again.id, told.id, "the registry by the name of its ID")
        proved("the registry's certificate has its ID for a name")

        # The health service's messages come by reflection; another package is not needed.
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(node.channel))
        check_method = pool.FindServiceByName("grpc.health.v1.Health").FindMethodByName("Check")
        request, answer = (
            message_factory.GetMessageClass(kind)
            for kind in (check_method.input_type, check_method.output_type)
        )
        ask = node.channel.unary_unary(
            "/grpc.health.v1.Health/Check", request.SerializeToString, answer.FromString
        )
        for service in ("", "xlreg.v2.Registry"):
            health = ask(request(service=service), timeout=DEADLINE)
            serving = health.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_name["SERVING"]
            equal(health.status, serving.number, f"the health of {service!r}")
        proved("the health service says that it is serving")

    def registration(self):
        node = self.node(registered=False)
        self.refused("NOT_REGISTERED", self.create, node, "before")
        self.refused("NOT_REGISTERED", self.join, node, "before", "nobody")
        first = self.register(node).node
        self.create(node, "before")
        equal(first.sig_key_sha256, node.sig_sha256, "the node's sig key")
        equal(first.comms_key, xlreg.spki(node.comms), "the node's comms key")
        equal(len(first.id), 20, "the length of a drawn ID")
        equal(self.register(node).node, first, "the same registration again")
        equal(self.register(node, id=first.id).node, first, "and with the ID in it")
        other = self.node(registered=False)
        chosen = xlreg.fingerprint(xlreg.spki(other.sig))[:20]
        equal(self.register(other, id=chosen).node.id, chosen, "a chosen ID")
        self.refused("ID_IN_USE", self.register, other, id=first.id)
        self.refused("NOT_REGISTERED", self.join, node, "before", "x", node_id=chosen)
        proved("nodes register with drawn and with chosen IDs, as often as they like")

        fresh = xlreg.new_key()
        statement = xlreg.comms_statement(
            node.registry, node.sig_sha256, xlreg.fingerprint(xlreg.spki(fresh))
        )
        given = {"comms_key": xlreg.spki(fresh), "comms_proof": xlreg.sign(fresh, statement)}
        self.refused("COMMS_KEY_DIFFERS", self.register, node, **given)
        late = self.node(registered=False)
        wrong = [
            xlreg.sign(late.sig, statement),
            late.comms_proof()[:-1],
            node.comms_proof(),
            xlreg.sign(late.comms, b"xlreg.v2 comms key\n" + bytes(96)),
        ]
        for proof in wrong:
            metadata = self.refused("BAD_PROOF", self.register, late, comms_proof=proof)
            equal(metadata, {"field": "comms_proof"}, "the metadata of BAD_PROOF")
        metadata = self.refused("INVALID_FIELD", self.register, late, id=b"short")
        equal((metadata["field"], "problem" in metadata), ("id", True), "the field that is named")
        self.refused("INVALID_FIELD", self.register, late, comms_key=b"no key")
        proved("a comms key without a good proof is refused")

    def open_cluster(self):
        owner, other = self.node(), self.node()
        made = self.create(owner, "open")
        check(made.created, "the cluster is not new")
        cluster = made.cluster
        equal(cluster.owner_sha256, owner.sig_sha256, "the owner")
        equal((cluster.size, cluster.endpoint_count), (2, 1), "size and endpoint count")
        again = self.create(other, "open")
        check(not again.created, "it was created twice")
        equal((again.cluster.id, again.cluster.owner_sha256), (cluster.id, owner.sig_sha256), "again")
        metadata = self.refused("CLUSTER_EXISTS", self.create, other, "open", size=3)
        equal(metadata, {"size": "2", "endpoint_count": "1"}, "the metadata of CLUSTER_EXISTS")
        for bad in ({"size": 1}, {"size": 65}, {"endpoint_count": 3}):
            self.refused("INVALID_FIELD", self.create, other, "bad", **bad)
        self.refused("INVALID_FIELD", self.create, other, "not-a-name")
        self.refused("CLUSTER_NOT_FOUND", self.join, other, "nowhere", "b")
        proved("clusters are created once, and the second is told of the first")

        watcher = self.watch(other, "open")
        first = next(watcher)
        equal(first.WhichOneof("event"), "snapshot", "the first event")
        equal(len(first.snapshot.members), 0, "members in the first snapshot")
        start = first.revision
        equal(self.join(owner, "open", "a").rank, 0, "the first rank")
        equal(self.join(owner, "open", "a").rank, 0, "the first rank, again")
        self.refused("MEMBER_NAME_IN_USE", self.join, other, "open", "a")
        self.refused("MEMBER_ID_IN_USE", self.join, owner, "open", "b")
        self.refused("WRONG_ENDPOINT_COUNT", self.join, other, "open", "b", endpoints=[])
        self.differs("nine endpoints", "INVALID_FIELD", "WRONG_ENDPOINT_COUNT",
                     self.join, other, "open", "b", endpoints=["127.0.0.1:1"] * 9)
        self.refused("INVALID_FIELD", self.join, other, "open", "b", endpoints=["no port"])
        equal(self.join(other, "open", "b", 4002).rank, 1, "the second rank")
        third = self.node()
        metadata = self.refused("CLUSTER_FULL", self.join, third, "open", "c")
        equal(metadata, {"size": "2"}, "the metadata of CLUSTER_FULL")
        a = self.change(watcher, "JOINED", start + 1, 0)
        b = self.change(watcher, "JOINED", start + 2, 1)
        equal((a.complete, b.complete), (False, True), "complete")
        equal(a.change.member.sig_key, xlreg.spki(owner.sig), "the sig key in the event")
        equal(b.change.member.endpoints, ["127.0.0.1:4002"], "the endpoints in the event")
        roster = self.call(third, "GetCluster", cluster=self.ref("open")).cluster
        equal([m.name for m in roster.members], ["a", "b"], "the roster")
        check(roster.complete and roster.present == 2, "the cluster is not complete")
        by_id = self.v2.ClusterRef(id=roster.id)
        equal(self.call(third, "GetCluster", cluster=by_id).cluster, roster, "by its ID")
        proved("two nodes join an open cluster; a watcher sees each once, and what is refused never")

        # A watcher whose channel is gone, and one that missed it all.
        self.connected(other)
        ports = [5001, 5002]
        for turn, port in enumerate(ports):
            given = {"cluster": self.ref("open"), "endpoints": [f"127.0.0.1:{port}"]}
            told = self.call(owner, "UpdateEndpoints", **given)
            equal(told.revision, start + 3 + turn, "the revision of an update")
        self.refused(
            "NOT_A_MEMBER", self.call, third, "UpdateEndpoints", **given
        )
        self.refused(
            "WRONG_ENDPOINT_COUNT", self.call, owner, "UpdateEndpoints", cluster=self.ref("open")
        )
        watcher = self.watch(other, "open", after=start + 2, by_id=cluster.id)
        for turn, port in enumerate(ports):
            event = self.change(watcher, "UPDATED", start + 3 + turn, 0)
            equal(event.change.member.endpoints, [f"127.0.0.1:{port}"], "the new endpoints")
        named = next(self.watch(third, "open", after=start))
        equal(named.WhichOneof("event"), "snapshot", "the answer to a revision without an ID")
        late = self.watch(third, "open", after=start, by_id=cluster.id)
        kinds = ["JOINED", "JOINED", "UPDATED", "UPDATED"]
        for turn, kind in enumerate(kinds):
            self.change(late, kind, start + 1 + turn)
        ahead = next(self.watch(third, "open", after=start + 1000, by_id=cluster.id))
        equal(ahead.WhichOneof("event"), "snapshot", "the answer to a revision that never was")
        proved("endpoints are updated; a watch goes on by revision after its channel is closed")

        revision = start + 4
        for turn in range(2):
            told = self.call(other, "Leave", cluster=self.ref("open"))
            equal(told.revision, revision + 1, f"the revision of leaving, {turn}")
        self.refused("NOT_A_MEMBER", self.call, third, "Leave", cluster=self.ref("open"))
        left = self.change(watcher, "LEFT", revision + 1, 1)
        check(left.change.member.left and not left.complete, "who left is there")
        self.refused("CLUSTER_FULL", self.join, third, "open", "c")
        equal(self.join(other, "open", "b", 4002).rank, 1, "the rank of who returns")
        back = self.change(watcher, "RETURNED", revision + 2, 1)
        check(back.complete and not back.change.member.left, "who returned is not there")
        proved("a member leaves, its rank is kept, and it returns to it")

        given = {"cluster": self.ref("open"), "member_id": other.id}
        self.refused("NOT_OWNER", self.call, third, "ExpelMember", **given)
        self.refused("NOT_A_MEMBER", self.call, owner, "ExpelMember",
                     cluster=self.ref("open"), member_id=third.id)
        equal(self.call(owner, "ExpelMember", **given).revision, revision + 3, "expelling")
        gone = self.change(watcher, "EXPELLED", revision + 3, 1)
        equal(gone.change.member.id, other.id, "who was expelled")
        self.refused("EXPELLED", self.join, other, "open", "b")
        equal(self.join(third, "open", "c", 4003).rank, 1, "the rank that was freed")
        self.change(watcher, "JOINED", revision + 4, 1)
        proved("the owner expels a member, who can't return, and its rank goes to the next")

        self.refused("NOT_OWNER", self.call, third, "DeleteCluster", cluster=self.ref("open"))
        self.call(owner, "DeleteCluster", cluster=self.ref("open"))
        last = next(watcher)
        equal(last.WhichOneof("event"), "gone", "the last event")
        equal(last.gone.reason, self.v2.GONE_REASON_DELETED, "why it is gone")
        equal(next(watcher, None), None, "what follows the last event")
        self.refused("CLUSTER_NOT_FOUND", self.call, owner, "GetCluster", cluster=self.ref("open"))
        reborn = self.create(other, "open").cluster
        check(reborn.id != roster.id, "the ID of a deleted cluster has returned")
        # Who goes on by ID can't take the one for the other.
        dead = self.watch(other, "open", after=start, by_id=cluster.id)
        self.refused("CLUSTER_NOT_FOUND", next, dead)
        proved("a deleted cluster ends its watches; its name is free, its ID never returns")

        brief = self.v2.Lifetime(fill_within=duration_pb2.Duration(seconds=2))
        self.create(owner, "brief", lifetime=brief)
        watcher = self.watch(other, "brief")
        equal(next(watcher).WhichOneof("event"), "snapshot", "the first event")
        equal(next(watcher).gone.reason, self.v2.GONE_REASON_EXPIRED, "why it is gone")
        proved("a cluster that is not full in time is gone")

    def tokens(self):
        owner, member, other = self.node(), self.node(), self.node()
        policy = self.v2.JoinPolicy(token=self.v2.JoinPolicy.Token())
        self.create(owner, "closed", size=3, policy=policy)
        self.create(owner, "elsewhere", policy=policy)
        cluster = self.ref("closed")

        def issue(stem="closed", **fields):
            return self.call(owner, "CreateToken", cluster=self.ref(stem), **fields)

        self.refused("TOKEN_REQUIRED", self.join, member, "closed", "a")
        self.refused("NOT_OWNER", self.call, member, "CreateToken", cluster=cluster)
        self.refused("INVALID_FIELD", issue, max_uses=1001)
        once = issue(max_uses=1, label="once")
        equal(once.token.expire_time.seconds - once.token.create_time.seconds, 86400, "a day")
        equal(issue().token.max_uses, 3, "uses of a token that does not say")
        equal(self.join(member, "closed", "a", token=once.secret).rank, 0, "the rank with a token")
        equal(self.join(member, "closed", "a").rank, 0, "the rank without it, as a member")
        self.refused("TOKEN_SPENT", self.join, other, "closed", "b", token=once.secret)
        told = self.call(owner, "ListTokens", cluster=cluster).tokens
        equal([(t.label, t.uses) for t in told], [("once", 1), ("", 0)], "the tokens")
        proved("a token lets in as many as it says; a member comes back without; replayed it is spent")

        last = once.secret[-1]
        altered = once.secret[:-1] + ("a" if last != "a" else "b")
        for secret in (altered, issue("elsewhere").secret):
            self.refused("TOKEN_INVALID", self.join, other, "closed", "b", token=secret)
        metadata = self.refused("INVALID_FIELD", self.join, other, "closed", "b", token="rubbish")
        equal(metadata["field"], "token", "the field that holds rubbish")
        check("rubbish" not in metadata["problem"], "what is nearly a secret is told back")
        revoked = issue()
        self.call(owner, "RevokeToken", cluster=cluster, token_id=revoked.token.id)
        self.refused("TOKEN_INVALID", self.join, other, "closed", "b", token=revoked.secret)
        self.refused("TOKEN_NOT_FOUND", self.call, owner, "RevokeToken",
                     cluster=cluster, token_id=revoked.token.id)
        proved("a wrong token, one of another cluster, and a revoked one are refused")

        short = issue(ttl=duration_pb2.Duration(seconds=1))
        end = short.token.expire_time.ToNanoseconds()
        while self.call(owner, "GetRegistry").time.ToNanoseconds() <= end:
            time.sleep(0.1)
        self.refused("TOKEN_EXPIRED", self.join, other, "closed", "b", token=short.secret)
        proved("an expired token is refused")

        have = len(self.call(owner, "ListTokens", cluster=self.ref("elsewhere")).tokens)
        for _ in range(64 - have):
            issue("elsewhere")
        metadata = self.refused("QUOTA_EXCEEDED", issue, "elsewhere")
        equal(metadata["max"], "64", "the most tokens that a cluster has")
        check(metadata["what"], "the quota has no name")
        proved(f"a 65th token of a cluster is too much: {metadata['what']}, {metadata['max']}")

    def keys(self):
        owner, listed, other = self.node(), self.node(), self.node()
        keys = self.v2.JoinPolicy.Keys(sig_key_sha256=[owner.sig_sha256, listed.sig_sha256])
        policy = self.v2.JoinPolicy(keys=keys)
        self.create(owner, "listed", policy=policy)
        self.refused("KEY_NOT_ALLOWED", self.join, other, "listed", "c")
        equal(self.join(listed, "listed", "a").rank, 0, "the rank of a listed key")
        shown = self.call(other, "GetCluster", cluster=self.ref("listed")).cluster.policy
        equal(shown.WhichOneof("kind"), "keys", "the policy's kind")
        equal(len(shown.keys.sig_key_sha256), 0, "keys that others are told")
        shown = self.call(owner, "GetCluster", cluster=self.ref("listed")).cluster.policy
        equal(set(shown.keys.sig_key_sha256), {owner.sig_sha256, listed.sig_sha256}, "the keys")
        proved("a cluster for certain keys takes these only, and tells them to its owner only")

    def rotation(self):
        node, watcher = self.node(), self.node()
        self.create(node, "rotated")
        self.join(node, "rotated", "a")
        stream = self.watch(watcher, "rotated")
        revision = next(stream).revision
        old = node.sig_sha256
        sig, comms = xlreg.new_key(), xlreg.new_key()
        prints = [xlreg.fingerprint(xlreg.spki(key)) for key in (sig, comms)]
        statement = xlreg.rotation_statement(node.registry, old, *prints)
        good = {
            "new_sig_key": xlreg.spki(sig),
            "new_comms_key": xlreg.spki(comms),
            "old_signature": xlreg.sign(node.sig, statement),
            "new_signature": xlreg.sign(sig, statement),
            "comms_proof": xlreg.sign(comms, xlreg.comms_statement(node.registry, *prints)),
        }
        for field in ("old_signature", "new_signature", "comms_proof"):
            bad = {**good, field: xlreg.sign(watcher.sig, statement)}
            metadata = self.refused("BAD_PROOF", self.call, node, "RotateKeys", **bad)
            equal(metadata, {"field": field}, "the proof that is named")
        nodes = self.call(node, "RotateKeys", **good).nodes
        equal([(n.id, n.sig_key_sha256) for n in nodes], [(node.id, prints[0])], "the new node")
        equal(nodes[0].comms_key, xlreg.spki(comms), "the new comms key")
        event = self.change(stream, "ROTATED", revision + 1, 0)
        equal(event.change.member.sig_key, xlreg.spki(sig), "the sig key that watchers see")
        self.refused("KEY_RETIRED", self.call, node, "GetRegistry")
        self.connected(node)
        self.refused("KEY_RETIRED", self.call, node, "GetRegistry")
        node.sig, node.comms = sig, comms
        self.connected(node)
        equal(self.join(node, "rotated", "a").rank, 0, "the rank by the new key")
        owner = self.call(node, "GetCluster", cluster=self.ref("rotated")).cluster.owner_sha256
        equal(owner, prints[0], "the owner by the new key")
        proved("keys are rotated by three proofs; the old sig key is retired, rank and cluster stay")

        # Only the comms key: no new signature, and the sig key stands twice.
        comms = xlreg.new_key()
        print_ = xlreg.fingerprint(xlreg.spki(comms))
        own = node.sig_sha256
        statement = xlreg.rotation_statement(node.registry, own, own, print_)
        proof = xlreg.sign(comms, xlreg.comms_statement(node.registry, own, print_))
        given = {"old_signature": xlreg.sign(node.sig, statement), "comms_proof": proof}
        self.call(node, "RotateKeys", new_comms_key=xlreg.spki(comms), **given)
        event = self.change(stream, "ROTATED", revision + 2, 0)
        equal(event.change.member.comms_key, xlreg.spki(comms), "the comms key that watchers see")
        node.comms = comms

        # Only the sig key, to one that is known already.
        taken = watcher.sig
        prints = [watcher.sig_sha256, node.comms_sha256]
        statement = xlreg.rotation_statement(node.registry, own, *prints)
        given = {"old_signature": xlreg.sign(node.sig, statement)}
        given["new_signature"] = xlreg.sign(taken, statement)
        self.refused("KEY_IN_USE", self.call, node, "RotateKeys",
                     new_sig_key=xlreg.spki(taken), **given)
        proved("the comms key alone is rotated; a sig key that is known already is not taken")

    def signatures(self):
        owner, other = self.node(), self.node()
        cluster = self.create(owner, "signed").cluster

        def sign(node, name, *ports, key=None, cluster=cluster.id):
            member = {"id": node.id.hex(), "name": name, "attrs": f"0x{0:016x}",
                      "endpoints": [f"127.0.0.1:{port}" for port in ports]}
            statement = roster.entry_statement(
                node.registry, cluster.hex(), member, node.sig_sha256, node.comms_sha256
            )
            return (key or node.sig).sign(statement, padding.PKCS1v15(), hashes.SHA256())

        good = sign(owner, "a", 4001)
        pss = xlreg.sign(owner.sig, b"xlreg.v2 member entry\n")
        wrong = [
            good[:-1] + bytes([good[-1] ^ 1]), pss, sign(owner, "b", 4001), sign(owner, "a", 4002),
            sign(owner, "a", 4001, key=other.sig), sign(owner, "a", 4001, cluster=bytes(20)),
        ]
        for signature in wrong:
            metadata = self.refused("BAD_PROOF", self.join, owner, "signed", "a",
                                    entry_signature=signature)
            equal(metadata, {"field": "entry_signature"}, "the metadata of BAD_PROOF")
        self.refused("INVALID_FIELD", self.join, owner, "signed", "a", entry_signature=good[1:])
        told = self.join(owner, "signed", "a", entry_signature=good).cluster
        equal((told.revision, told.members[0].entry_signature), (1, good), "the signed entry")
        for again in (good, b""):
            told = self.join(owner, "signed", "a", entry_signature=again).cluster
            equal((told.revision, told.members[0].entry_signature), (1, good), "the same once more")
        self.join(other, "signed", "b", 4002)
        proved("a member signs its entry as it joins; a signature that is not over it is refused")

        def file():
            data = self.call(other, "GetSignedRoster", cluster=self.ref("signed")).file
            read = roster.parse(data)
            return read, list(roster.findings(read, other.registry))

        unsigned = "member b (rank 1): it has not signed its entry"
        read, found = file()
        equal((read["id"], found), (cluster.id.hex(), [unsigned]), "the roster with one unsigned")
        given = {"cluster": self.ref("signed"), "endpoints": ["127.0.0.1:4002"]}
        self.refused("BAD_PROOF", self.call, other, "UpdateEndpoints", **given,
                     entry_signature=sign(other, "b", 4001))
        own = sign(other, "b", 4002)
        self.call(other, "UpdateEndpoints", **given, entry_signature=own)
        read, found = file()
        equal((read["revision"], found), (3, []), "the roster that both have signed")
        self.call(owner, "UpdateEndpoints", cluster=self.ref("signed"), endpoints=["127.0.0.1:5"])
        equal(file()[1], ["member a (rank 0): it has not signed its entry"], "who moved unsigned")
        self.refused("CLUSTER_NOT_FOUND", self.call, other, "GetSignedRoster",
                     cluster=self.ref("nowhere"))
        proved("the registry signs the roster, and both signatures verify with stock cryptography")

    def listing(self):
        owner = self.node()
        names = [self.name(f"page_{letter}") for letter in "abcde"]
        for letter in "ecadb":
            self.create(owner, f"page_{letter}")
        got, sizes, token = [], [], ""
        while True:
            page = self.call(owner, "ListClusters", mine=True, page_size=2, page_token=token)
            got += [cluster.name for cluster in page.clusters]
            sizes.append(len(page.clusters))
            token = page.next_page_token
            if not token:
                break
        equal((got, sizes), (names, [2, 2, 1]), "the owner's clusters in pages of two")
        everything, token = [], ""
        while True:
            page = self.call(owner, "ListClusters", page_size=3, page_token=token)
            everything += [cluster.name for cluster in page.clusters]
            token = page.next_page_token
            if not token:
                break
        equal(everything, sorted(set(everything)), "all clusters, each once, in order")
        check(set(names) < set(everything), "the others' clusters are not listed")
        self.refused("INVALID_FIELD", self.call, owner, "ListClusters", page_size=1001)
        self.refused("INVALID_FIELD", self.call, owner, "ListClusters", page_token="no token!")
        proved("clusters are listed in pages, in order, one's own and all")


def main():
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        proof = Proof(*sys.argv[1:], scratch)
        try:
            proof.handshake()
            proof.registry()
            proof.registration()
            proof.open_cluster()
            proof.tokens()
            proof.keys()
            proof.rotation()
            proof.signatures()
            proof.listing()
        except (AssertionError, grpc.RpcError) as error:
            # Line by line: the proof, and what it has called in here.
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                     if frame.filename == __file__][1:]
            where = " > ".join(map(str, lines))
            told = f"{error.code().name}: {error.details()}" if hasattr(error, "code") else error
            raise SystemExit(f"error: prove.py, line {where}: {told}")
        proved(f"{len(proof.met)} of {len(proof.statuses)} reasons met, each with its status")
        unmet = sorted(set(proof.statuses) - proof.met)
        print(f"      not met: {', '.join(unmet)}")


if __name__ == "__main__":
    main()
