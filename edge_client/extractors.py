"""The extractor of a transfer model on its way to a device.

A task names it by the blob of its manifest. The manifest itself, a hundred digests and more, is fetched once
like any other blob: in every task it would cost as much as a round's update.
"""

from __future__ import annotations

from compression.records import RecordError, dumps, loads
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.wire.blobs import BlobRef

MANIFEST_BYTES = 128 * 1024


def put_extractor(blobs: BlobStore, file: bytes) -> BlobRef:
    """Keep an extractor's file and its manifest; return what tasks and releases name."""
    return blobs.put(dumps(blobs.put(file)))


def extractor_blobs(blobs: BlobStore, manifest: BlobRef | None) -> list[BlobRef]:
    """What there is to fetch or to serve: the manifest, and the file as soon as the manifest is here.

    Raises:
        BlobError: the manifest is damaged.
    """
    if manifest is None:
        return []
    return [manifest, extractor_file(blobs, manifest)] if blobs.has(manifest) else [manifest]


def read_extractor(blobs: BlobStore, manifest: BlobRef) -> bytes:
    """The file itself; raise `BlobError` if it is not here or damaged: it is to be fetched again."""
    return blobs.read(extractor_file(blobs, manifest))


def extractor_file(blobs: BlobStore, manifest: BlobRef) -> BlobRef:
    """The file that a manifest in the store names; raise `BlobError` if it is not here or is none."""
    try:
        return loads(BlobRef, blobs.read(manifest), max_bytes=MANIFEST_BYTES)
    except RecordError as exc:
        raise BlobError(f"blob {manifest.digest[:12]} is no extractor's manifest: {exc}") from exc
