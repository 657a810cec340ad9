"""A client of an xlreg registry in plain grpcio, to read and to copy from.

It needs nothing of xlreg's but the .proto file (or the registry's reflection service) and the
registry's root certificate as `xlreg cred export` writes it.
"""

import datetime
import hashlib

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)


def new_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def spki(key):
    """A public key as the registry wants it: DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(der):
    return hashlib.sha256(der).digest()


def certificate(key):
    """A certificate self-signed with a node's sig key. Only the key in it counts."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "xlreg node")])
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )


def pem(thing):
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM)
    return thing.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class Node:
    """A node: its two keys, and what it signs with them."""

    def __init__(self):
        self.sig, self.comms = new_key(), new_key()

    def channel(self, target, root_pem):
        """A channel to the registry. The handshake proves that we hold the sig key."""
        credentials = grpc.ssl_channel_credentials(
            root_certificates=root_pem,
            private_key=pem(self.sig),
            certificate_chain=pem(certificate(self.sig)),
        )
        return grpc.secure_channel(target, credentials)

    def comms_proof(self, registry_sig_key):
        """That the holder of the comms key agrees to be known by the sig key, at this registry."""
        statement = (
            b"xlreg.v2 comms key\n"
            + fingerprint(registry_sig_key)
            + fingerprint(spki(self.sig))
            + fingerprint(spki(self.comms))
        )
        return self.comms.sign(statement, PSS, hashes.SHA256())
