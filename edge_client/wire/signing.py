"""Ed25519 signatures of the server's messages.

What is signed is the topic, a zero byte, and the frame: a receipt for one device is worth nothing on
another's topic. Device messages are not signed; the broker's ACL and mutual TLS say who sent them.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge_client.wire.errors import WireError

SIGNATURE_BYTES = 64


class Signer:
    """The fleet's signing key, held by the server alone."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def create(cls, path: Path) -> Signer:
        """Make a key and write it, PEM (PKCS 8), mode 0600 from birth; `FileExistsError` if there is one."""
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Read a PEM key; raise `ValueError` naming the file for anything but Ed25519."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as exc:
            raise ValueError(f"{path} is not an unencrypted PEM private key: {exc}") from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} is not an Ed25519 key")
        return cls(key)

    def sign(self, topic: str, frame: bytes) -> bytes:
        """Signature of a frame on a topic, 64 bytes."""
        return self._key.sign(_signed_bytes(topic, frame))

    @property
    def public_hex(self) -> str:
        """The public key, 64 hexadecimal digits, as it stands in ``edge.toml``."""
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        return self._key.public_key().public_bytes(*raw).hex()


class Verifier:
    """The fleet's public key, held by every device."""

    def __init__(self, public_hex: str) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex))

    def check(self, topic: str, frame: bytes, signature: bytes) -> None:
        """Raise `WireError` unless the fleet's key signed this frame for this topic."""
        try:
            self._key.verify(signature, _signed_bytes(topic, frame))
        except InvalidSignature as exc:
            raise WireError("the signature is not by the fleet's key") from exc


def _signed_bytes(topic: str, frame: bytes) -> bytes:
    return topic.encode() + b"\0" + frame
