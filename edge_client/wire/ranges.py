"""Ranges of a network's activations over a device's examples: what an int8 model's scales are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from compression.records import Between, Length, Record, RecordError

MAX_TENSORS = 4096

Bound = Annotated[float, Between(-1e30, 1e30)]


@dataclass(frozen=True, slots=True)
class ActivationRanges(Record):
    """One device's report.

    Attributes:
        tensors: positions in the file that was run, ascending.
        low, high: of each; clipped, and with noise if the task said so.
        examples: that were run.
    """

    tensors: Annotated[tuple[Annotated[int, Between(0, 1 << 20)], ...], Length(1, MAX_TENSORS)]
    low: Annotated[tuple[Bound, ...], Length(1, MAX_TENSORS)]
    high: Annotated[tuple[Bound, ...], Length(1, MAX_TENSORS)]
    examples: Annotated[int, Between(1, 1 << 40)]

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if not len(self.tensors) == len(self.low) == len(self.high):
            raise RecordError("ActivationRanges: tensors, low and high differ in length")
        if list(self.tensors) != sorted(set(self.tensors)):
            raise RecordError("ActivationRanges: tensors are not in ascending order")
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise RecordError("ActivationRanges: a range ends below its beginning")
