"""A client of an xlreg registry in plain grpcio, to read and to copy from.

It needs nothing of xlreg's but the .proto file (or the registry's reflection service) and the
registry's root certificate as `xlreg cred export` writes it.
"""

import datetime
import hashlib
import importlib.resources
import pathlib
import sys

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)

# What stands in a rotation's statement for a comms key that was never registered.
NO_KEY = bytes(32)


def generate(proto, scratch):
    """Makes messages and stub of registry.proto, and imports them: (messages, stubs)."""
    roots = [str(proto)[: -len("xlreg/v2/registry.proto")] or "."]
    roots.append(str(importlib.resources.files("grpc_tools") / "_proto"))
    arguments = [f"-I{root}" for root in roots]
    arguments += [f"--python_out={scratch}", f"--grpc_python_out={scratch}", str(proto)]
    if protoc.main(["protoc", *arguments]) != 0:
        raise SystemExit(f"error: protoc can't read {proto}")
    sys.path.insert(0, str(scratch))
    from xlreg.v2 import registry_pb2, registry_pb2_grpc

    return registry_pb2, registry_pb2_grpc


def spki(key):
    """A public key as the registry wants it: DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(der):
    return hashlib.sha256(der).digest()


def comms_statement(registry, sig, comms):
    """What a comms key signs to be known by a sig key. All three are fingerprints."""
    return b"xlreg.v2 comms key\n" + registry + sig + comms


def rotation_statement(registry, old_sig, new_sig, new_comms):
    """What the old and the new sig key sign. All four are fingerprints."""
    return b"xlreg.v2 rotate keys\n" + registry + old_sig + new_sig + new_comms


def sign(key, statement):
    return key.sign(statement, PSS, hashes.SHA256())


def new_key(bits=2048):
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def certificate(key, name="xlreg node", dates=None, signer=None):
    """A certificate self-signed with a node's sig key. Only the key in it counts."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    begin, end = dates or (now - datetime.timedelta(hours=1), now + datetime.timedelta(days=3650))
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(signer or key, hashes.SHA256())
    )


def pem(thing):
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM)
    return thing.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def credentials(root, key, shown=None):
    """What a channel needs: the registry's root, and a certificate of our key to show."""
    return grpc.ssl_channel_credentials(root, pem(key), pem(shown or certificate(key)))


class Node:
    """A node: its two keys, a channel to the registry, and the registry's sig key."""

    def __init__(self, target, root, registry_sig_key):
        self.target, self.root = target, root
        self.registry = fingerprint(registry_sig_key)
        self.sig, self.comms = new_key(), new_key()
        self.channel = None
        self.connect()

    def connect(self):
        """A new channel, by the sig key we have now. The handshake proves that we hold it."""
        if self.channel:
            self.channel.close()
        # Channels with equal arguments share their connections; ours is to be our own.
        options = [("grpc.use_local_subchannel_pool", 1)]
        given = credentials(self.root, self.sig)
        self.channel = grpc.secure_channel(self.target, given, options)
        return self.channel

    @property
    def sig_sha256(self):
        return fingerprint(spki(self.sig))

    @property
    def comms_sha256(self):
        return fingerprint(spki(self.comms))

    def comms_proof(self):
        """That the holder of the comms key agrees to be known by the sig key, at this registry."""
        return sign(
            self.comms, comms_statement(self.registry, self.sig_sha256, self.comms_sha256)
        )


def root_sig_key(root):
    """The key in root.pem, which is the registry's sig key: no need to ask for it."""
    return x509.load_pem_x509_certificate(root).public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def detail(error, kind):
    """One of the details of a status, or None if the registry did not send it."""
    status = rpc_status.from_call(error)
    for packed in status.details if status else []:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def reason(error):
    """Why a call was refused: google.rpc.ErrorInfo, or None if it was not the registry that did."""
    info = detail(error, error_details_pb2.ErrorInfo)
    return info if info and info.domain == "xlreg" else None


def retry_after(error):
    """How long to wait before asking again, if that helps: a Duration."""
    info = detail(error, error_details_pb2.RetryInfo)
    return info.retry_delay if info else None


def read_root(path):
    return pathlib.Path(path).read_bytes()
