"""The fleet's signing key, held by the server alone; devices hold `edge_client.wire.signing.Verifier`.

Apart from it because reading and writing keys costs 3 MB of memory that a device can spare.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client.wire.signing import signed_bytes


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
        return self._key.sign(signed_bytes(topic, frame))

    @property
    def public_hex(self) -> str:
        """The public key, 64 hexadecimal digits, as it stands in ``edge.toml``."""
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        return self._key.public_key().public_bytes(*raw).hex()
