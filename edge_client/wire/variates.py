"""How a control variate's change travels behind the update that it belongs to (SCAFFOLD).

Both are coded by `compression.updates`. The variate's is coded for a digest of its own, so that the one can
never be taken for the other.
"""

from __future__ import annotations

from edge_client.wire.blobs import sha256


def variate_digest(bundle_digest: str) -> str:
    """The model digest that control variates are coded for."""
    return sha256(f"control variate of {bundle_digest}".encode())


def split_payload(payload: bytes, variate_bytes: int) -> tuple[bytes, bytes]:
    """The update and the variate's change."""
    end = max(0, len(payload) - variate_bytes)
    return payload[:end], payload[end:]
