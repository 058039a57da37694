"""Ranges of a network's activations over a device's examples: what an int8 model's scales are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from compression.records import Between, Length, Record, RecordError
from edge_client.wire.blobs import BlobRef, Digest

MAX_TENSORS = 4096
MAX_RANGE_EXAMPLES = 10_000
BYTES_A_TENSOR = 80  # of a report: a position and two numbers with all their digits
BYTES_BESIDES = 1024

Bound = Annotated[float, Between(-1e30, 1e30)]
Positions = Annotated[tuple[Annotated[int, Between(0, 1 << 20)], ...], Length(1, MAX_TENSORS)]


@dataclass(frozen=True, slots=True)
class RangesPlan(Record):
    """What a "calibrate" task asks for.

    Attributes:
        program: the float32 file that is run, [1, *input] in.
        tensors: positions in it whose ranges are wanted, ascending.
        kept_bytes: that all its activations take together, since each one is read.
        examples: at most, spread over the device's training examples.
        clip_percent: of each example's values at either end that do not count.
        noise: standard deviation of what is added to each bound, as a share of the range's extent.
    """

    program: BlobRef
    tensors: Positions
    kept_bytes: Annotated[int, Between(0, 1 << 40)] = 0
    examples: Annotated[int, Between(1, MAX_RANGE_EXAMPLES)] = 200
    clip_percent: Annotated[float, Between(0.0, 25.0)] = 0.0
    noise: Annotated[float, Between(0.0, 1.0)] = 0.0

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        _check_ascending(self.tensors, "RangesPlan")

    @property
    def max_report_bytes(self) -> int:
        """Most that a device's report can take."""
        return BYTES_BESIDES + BYTES_A_TENSOR * len(self.tensors)


@dataclass(frozen=True, slots=True)
class ActivationRanges(Record):
    """One device's report: the payload of its result.

    Attributes:
        program: SHA-256 of the file that was run, which gives the positions their meaning.
        tensors: positions in it, ascending.
        low, high: of each; clipped, and with noise if the task said so.
        examples: that were run.
    """

    program: Digest
    tensors: Positions
    low: Annotated[tuple[Bound, ...], Length(1, MAX_TENSORS)]
    high: Annotated[tuple[Bound, ...], Length(1, MAX_TENSORS)]
    examples: Annotated[int, Between(1, 1 << 40)]

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if not len(self.tensors) == len(self.low) == len(self.high):
            raise RecordError("ActivationRanges: tensors, low and high differ in length")
        _check_ascending(self.tensors, "ActivationRanges")
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise RecordError("ActivationRanges: a range ends below its beginning")


def _check_ascending(tensors: tuple[int, ...], where: str) -> None:
    if list(tensors) != sorted(set(tensors)):
        raise RecordError(f"{where}: tensors are not in ascending order")
