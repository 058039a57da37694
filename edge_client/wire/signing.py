"""Ed25519 signatures of the server's messages.

What is signed is the topic, a zero byte, and the frame: a receipt for one device is worth nothing on
another's topic. Device messages are not signed; the broker's ACL and mutual TLS say who sent them.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge_client.wire.errors import WireError

SIGNATURE_BYTES = 64


class Signs(Protocol):
    """What `edge_client.wire.frame.encode` needs to sign: `edge_client.wire.signer.Signer` is one."""

    def sign(self, topic: str, frame: bytes) -> bytes:
        """Signature of a frame on a topic, 64 bytes."""


class Verifier:
    """The fleet's public key, held by every device."""

    def __init__(self, public_hex: str) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex))

    def check(self, topic: str, frame: bytes, signature: bytes) -> None:
        """Raise `WireError` unless the fleet's key signed this frame for this topic."""
        try:
            self._key.verify(signature, signed_bytes(topic, frame))
        except InvalidSignature as exc:
            raise WireError("the signature is not by the fleet's key") from exc


def signed_bytes(topic: str, frame: bytes) -> bytes:
    """What a signature is over."""
    return topic.encode() + b"\0" + frame
