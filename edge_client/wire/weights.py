"""A version of the weights by name, and the ways to get there: in tasks and in releases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from compression.records import Length, Record
from edge_client.wire.blobs import BlobRef, Digest
from edge_client.wire.fields import Number, Share

MAX_CHAIN = 16  # deltas offered to a device that is some rounds behind; beyond that a full model is smaller


@dataclass(frozen=True, slots=True)
class DeltaRef(Record):
    """A step from one version of the weights to the next, coded by `compression.updates`.

    With ``sparsity`` it ends as `compression.sparsity.pruned_step` says.
    """

    from_digest: Digest
    to_digest: Digest
    blob: BlobRef
    sparsity: Share | None = None


@dataclass(frozen=True, slots=True)
class WeightsRef(Record):
    """A version of the weights and the ways to get there.

    ``digest`` is `compression.spec.weights_digest`. ``steps`` lead one after the other to it; a device
    that holds the start of one of them fetches from there, any other fetches ``full``.
    """

    version: Number
    digest: Digest
    full: BlobRef
    steps: Annotated[tuple[DeltaRef, ...], Length(0, MAX_CHAIN)] = ()
