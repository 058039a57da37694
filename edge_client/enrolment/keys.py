"""A device's key pair and its request for a certificate: elliptic curve P-256, made where its owner lives.

Every Pi's OpenSSL has the curve, and a handshake costs about a millisecond.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PEM: it guards itself by the mode of its file, so that a Pi can start alone."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def common_name(name: str) -> x509.Name:
    """The X.509 name that says `name` and nothing else."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A request for a certificate in the name of `name`, PEM, signed by the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name(name))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
