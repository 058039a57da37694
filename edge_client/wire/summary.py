"""What a device says about its data: counts and column names, never an example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from compression.records import Between, Length, Record

Label = Annotated[str, Length(1, 128)]
Count = Annotated[int, Between(0, 1 << 40)]


@dataclass(frozen=True, slots=True)
class DataSummary(Record):
    """Counts of a device's examples.

    Attributes:
        kind: pictures or table rows.
        counts: training examples by label.
        validation_examples: examples held out on the device.
        columns: of a table, without the label.
        skipped: files that could not be read.
    """

    kind: Literal["image", "table"]
    counts: Annotated[Mapping[Label, Count], Length(0, 4096)]
    validation_examples: Count
    columns: Annotated[tuple[Label, ...], Length(0, 4096)] = ()
    skipped: Count = 0

    @property
    def examples(self) -> int:
        """Number of training examples."""
        return sum(self.counts.values())
