"""Centre and spread of each column over the whole fleet, without any row leaving its device.

A device sends for each column a count, the mean, the sum of squared deviations and a quantile
sketch. Two such records add up to the record of the pooled rows: means and deviations by the
formulas of Chan, Golub and LeVeque (1979), which lose nothing where mean and spread differ by orders
of magnitude, as plain sums of squares do; the sketches as `edge_client.data.sketch` says.

A mean over a handful of rows would give them away, so a device with fewer than `MIN_ROWS` training
rows sends empty statistics: they add nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from compression.records import Between, Length, Record, RecordError
from compression.spec import TableInput
from edge_client.data.errors import DataError
from edge_client.data.local import open_table
from edge_client.data.sketch import QuantileSketch
from edge_client.data.source import DataSource
from edge_client.data.splitting import split_examples
from edge_client.data.table import MAX_COLUMNS, MAX_MAGNITUDE

MIN_ROWS = 5
EPSILON = float(np.finfo(np.float64).eps)
MAX_STATISTICS_BYTES = 8 << 20  # of canonical JSON: 4096 columns; 30 columns take less than 64 KiB
Scaling = Literal["standard", "robust"]


@dataclass(frozen=True, slots=True)
class Column(Record):
    """What is known of one column.

    Attributes:
        name: from the header.
        count: number of values.
        mean: of the values; 0 without any.
        squares: sum of the squared deviations from the mean.
        sketch: of the distribution.
    """

    name: Annotated[str, Length(1, 128)]
    count: Annotated[int, Between(0, 1 << 40)]
    mean: Annotated[float, Between(-MAX_MAGNITUDE, MAX_MAGNITUDE)]
    squares: Annotated[float, Between(0, 1e250)]
    sketch: QuantileSketch

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.sketch.count != self.count:
            raise RecordError(f"Column {self.name!r}: {self.sketch.count} values sketched of {self.count}")

    @classmethod
    def of(cls, name: str, values: npt.NDArray[np.float64]) -> Column:
        """Count and add up; the second pass corrects the first one's rounding."""
        if not len(values):
            return cls(name, 0, 0.0, 0.0, QuantileSketch())
        first = float(values.mean())
        deviations = values - first
        left_over = float(deviations.mean())
        squares = float(np.square(deviations).sum()) - len(values) * left_over**2
        return cls(name, len(values), first + left_over, max(squares, 0.0), QuantileSketch.of(values))

    def __add__(self, other: Column) -> Column:
        if self.name != other.name:
            raise RecordError(f"columns {self.name!r} and {other.name!r} cannot be added")
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        return Column(
            name=self.name,
            count=count,
            mean=self.mean + apart * (other.count / count),
            squares=self.squares + other.squares + apart**2 * (self.count * other.count / count),
            sketch=self.sketch + other.sketch,
        )

    @property
    def deviation(self) -> float:
        """Standard deviation over the values themselves (divisor N)."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    @property
    def is_constant(self) -> bool:
        """Whether the values differ by no more than rounding."""
        return self.deviation <= 16 * EPSILON * abs(self.mean)

    def scaling(self, how: Scaling) -> tuple[float, float]:
        """Centre and spread; a constant column has spread 1, so that it comes out as 0."""
        if self.is_constant:
            return self.mean, 1.0
        if how == "standard":
            return self.mean, self.deviation
        quartiles = self.sketch.quantile(0.75) - self.sketch.quantile(0.25)
        return self.sketch.quantile(0.5), quartiles or self.deviation


@dataclass(frozen=True, slots=True)
class ColumnStatistics(Record):
    """Statistics of a table's columns, of one device or of many added up."""

    columns: Annotated[tuple[Column, ...], Length(1, MAX_COLUMNS)]

    def __add__(self, other: ColumnStatistics) -> ColumnStatistics:
        if len(self.columns) != len(other.columns):
            raise RecordError(
                f"statistics of {len(self.columns)} and {len(other.columns)} columns cannot be added"
            )
        return ColumnStatistics(tuple(a + b for a, b in zip(self.columns, other.columns, strict=True)))

    @property
    def rows(self) -> int:
        """Number of rows added up."""
        return self.columns[0].count


def column_statistics(
    source: DataSource,
    columns: Sequence[str],
    *,
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> ColumnStatistics:
    """Statistics of a device's training rows.

    Args:
        source: a table.
        columns: names of the columns, in the order of the answer.
        validation_fraction, seed: as for `load_data`: the rows held out do not count.

    Raises:
        DataError: the source is no table, lacks a column or holds a value that cannot be used.
    """
    table = open_table(source, columns)
    kept = np.ones(len(table.rows), np.bool_)
    split = split_examples(
        table.catalogue, kept, table.where, validation_fraction=validation_fraction, seed=seed
    )
    rows = table.rows[split.train]
    return statistics_of(rows, columns)


def statistics_of(rows: npt.NDArray[np.float64], columns: Sequence[str]) -> ColumnStatistics:
    """Statistics of rows [N, columns]; empty ones for fewer than `MIN_ROWS`."""
    if len(rows) < MIN_ROWS:
        rows = rows[:0]
    return ColumnStatistics(tuple(Column.of(name, rows[:, i]) for i, name in enumerate(columns)))


def table_input(statistics: ColumnStatistics, scaling: Scaling = "standard") -> TableInput:
    """How the model takes a row: by mean and standard deviation, or by median and quartiles.

    Raises:
        DataError: the statistics are of no rows.
    """
    if not statistics.rows:
        raise DataError(f"no device has the {MIN_ROWS} training rows that column statistics need")
    pairs = [column.scaling(scaling) for column in statistics.columns]
    return TableInput(
        columns=tuple(column.name for column in statistics.columns),
        center=tuple(center for center, _ in pairs),
        spread=tuple(spread for _, spread in pairs),
    )
