"""Shorter ways to a model's file than the file: packed, or as a patch to what devices have.

Each way is made and measured; the device takes the smallest that it can use (`edge_client.releases`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edge_client.inference.patches import aligned_patches, bsdiff_patch, pack_file
from edge_client.wire.blobs import BlobRef, sha256
from edge_client.wire.rollout import MAX_SOURCES, ModelSource

BSDIFF_BYTES = 8 << 20  # of both files together: its suffix sort takes about 17 times the old file
WORTH = 0.95  # of the file's size: a patch that saves less is not worth a manifest


def shorter_ways(
    new: bytes, held: Iterable[bytes], put: Callable[[bytes], BlobRef]
) -> tuple[ModelSource, ...]:
    """The packed file and a patch from each file that devices hold, where they save something.

    Args:
        new: the model's file.
        held: files that devices have, those that most have first.
        put: keeps a blob.
    """
    sources: list[ModelSource] = []
    packed = pack_file(new)
    best = WORTH * len(new)
    if len(packed) < best:
        sources.append(ModelSource(from_digest=None, blob=put(packed)))
        best = WORTH * len(packed)
    for old in held:
        if old == new or len(sources) == MAX_SOURCES:
            continue
        patch = smallest_patch(old, new)
        if len(patch) < best:
            sources.append(ModelSource(from_digest=sha256(old), blob=put(patch)))
    return tuple(sources)


def smallest_patch(old: bytes, new: bytes) -> bytes:
    """The patch from one file to the other that takes the fewest bytes."""
    patches = [pack_file(new), *aligned_patches(old, new)]
    if len(old) + len(new) <= BSDIFF_BYTES:
        import bsdiff4  # the server's alone: it has no wheel for 32-bit Arm

        difference: bytes = bsdiff4.diff(old, new)
        patches.append(bsdiff_patch(difference, new))
    return min(patches, key=len)
