"""A personalised image as a file: decoded beside its final name, personalised, then renamed."""

from __future__ import annotations

import os
from pathlib import Path

from compression.progress import Report
from edge_client.files import sync_directory
from provisioning.card import Card
from provisioning.customise.apply import Applied, personalise
from provisioning.customise.errors import CustomiseError
from provisioning.customise.payload import Payload
from provisioning.image.hashed_file import HashedFile
from provisioning.image.sources import Image, read_image

MAX_BYTES = 1 << 40  # the largest card there is
HOLE = bytes(64 * 1024)  # zeros of this length are left out: the file is new, so they read as zeros


def write_image_file(
    image: Image, out: Path, card: Card, payload: Payload, *, instance_id: str, report: Report
) -> Applied:
    """Decode `image` to `out` and personalise it there. `out` appears whole or not at all.

    Raises:
        CustomiseError: `out` exists, or as `personalise`.
        ImageError: the image is damaged or not the one that was meant.
    """
    if out.exists():
        raise CustomiseError(f"{out} exists; name another file or remove it")
    partial = out.with_name(f".{out.name}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            _decode(image, file.fileno(), report)  # 0600: it will hold a device's secrets
        report("personalising", 0.9)
        applied = personalise(partial, card, payload, instance_id=instance_id)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(out)
        sync_directory(out.parent)  # or the name is gone after a power cut, and a token with it
    finally:
        partial.unlink(missing_ok=True)
    return applied


def _decode(image: Image, descriptor: int, report: Report) -> None:
    position = 0
    with HashedFile(image.path) as source:
        for piece in read_image(image, source, limit=MAX_BYTES):
            for start in range(0, len(piece), len(HOLE)):
                part = piece[start : start + len(HOLE)]
                if part != HOLE:
                    os.pwrite(descriptor, part, position + start)
            position += len(piece)
            report("decoding", 0.9 * source.position / max(image.archive_bytes, 1))
    os.ftruncate(descriptor, position)
