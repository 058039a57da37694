"""Tables: a CSV with a header, one label column, every other column a number.

Nothing is guessed: a missing value, a word or an infinity among the numbers is refused, and the
message names the file, the row (the header is row 1, as in a spreadsheet) and the column.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_client.data.catalogue import LABEL_COLUMNS, MAX_LABEL_CHARACTERS, SPLITS, UNSPLIT, Catalogue
from edge_client.data.errors import DataError

IDENTITY_COLUMNS = ("id", "patient_id", "patientid")  # a number there says nothing a model should learn
MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))
DELIMITERS = ",;\t"
MAX_COLUMNS = 4096
MAX_MAGNITUDE = 1e100  # squares of larger values overflow the sums


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one table.

    Attributes:
        where: the file.
        columns: names of the number columns, in order.
        rows: float64 [N, columns].
        catalogue: labels and splits.
        lines: int32 [N], the row of the file each comes from.
    """

    where: str
    columns: tuple[str, ...]
    rows: npt.NDArray[np.float64]
    catalogue: Catalogue
    lines: npt.NDArray[np.int32]

    def place(self, index: int) -> str:
        """File and row, for messages."""
        return f"{self.where}, row {self.lines[index]}"


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which position of a line holds what."""

    label: int
    split: int | None
    columns: tuple[str, ...]
    positions: tuple[int, ...]
    unnamed: tuple[int, ...]  # a comma too many at the end of each line: must be empty
    width: int


def read_table(file: Path, label_column: str | None = None, columns: Sequence[str] | None = None) -> Table:
    """Read a table.

    Args:
        file: a CSV in UTF-8, separated by commas, semicolons or tabs.
        label_column: name of the label column; by default the first of label, diagnosis, target, class.
        columns: the columns wanted, in this order; others are passed over. By default all but the
            label, ``split`` and identity columns.

    Raises:
        DataError: the file, a column or a value cannot be used.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header_line = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=_delimiter(header_line))
            header = next(reader, None)
            if not header:
                raise DataError(f"{file} is empty: expected a header and rows of numbers")
            layout = _layout(file, [name.strip() for name in header], label_column, columns)
            return _read_rows(file, layout, _lines(reader))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise DataError(f"{file}: cannot be read as a table: {exc}") from exc


def _lines(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    for row in reader:
        if row:
            yield reader.line_num, row  # type: ignore[attr-defined]


def _read_rows(file: Path, layout: _Layout, lines: Iterator[tuple[int, list[str]]]) -> Table:
    values, numbers = array("d"), array("i")
    labels: list[str] = []
    splits = bytearray()
    names: dict[str, str] = {}  # one text object for each label, however many rows
    for line, row in lines:
        if len(row) != layout.width:
            raise DataError(f"{file}, row {line}: {len(row)} values under {layout.width} columns")
        label = row[layout.label].strip()
        if label.lower() in MISSING:
            raise DataError(f"{file}, row {line}: the label is missing")
        for position in layout.unnamed:
            if row[position].strip():
                raise DataError(f"{file}, row {line}: {row[position][:40]!r} stands under no column name")
        for name, position in zip(layout.columns, layout.positions, strict=True):
            values.append(_number(row[position], file, line, name))
        labels.append(names.setdefault(label, label))
        splits.append(UNSPLIT if layout.split is None else _split(file, line, row[layout.split]))
        numbers.append(line)
    if not labels:
        raise DataError(f"{file} has a header but no rows")
    rows = np.frombuffer(values, np.float64).reshape(len(labels), len(layout.columns))
    return Table(
        str(file), layout.columns, rows, Catalogue.of(labels, splits), np.frombuffer(numbers, np.int32)
    )


def _number(text: str, file: Path, line: int, column: str) -> float:
    try:
        value = float(text)
        if not -MAX_MAGNITUDE <= value <= MAX_MAGNITUDE or "_" in text:
            raise ValueError
    except ValueError:
        shown = text.strip()[:40]
        problem = (
            "is missing"
            if shown.lower() in MISSING
            else f"holds {shown!r}, beyond 1e100"
            if _is_number(text)
            else f"holds {shown!r}, not a number"
        )
        raise DataError(f"{file}, row {line}, column {column!r} {problem}") from None
    return value


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text)) and "_" not in text
    except ValueError:
        return False


def _layout(file: Path, header: list[str], label_column: str | None, wanted: Sequence[str] | None) -> _Layout:
    named = [name for name in header if name]
    if len(set(named)) != len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise DataError(f"{file}: column {twice!r} occurs twice")
    label = _label_position(file, header, label_column)
    split = next((i for i, name in enumerate(header) if name.lower() == "split" and i != label), None)
    if wanted is None:
        passed_over = {label, split}
        columns = tuple(
            name
            for i, name in enumerate(header)
            if name and i not in passed_over and name.lower() not in IDENTITY_COLUMNS
        )
    else:
        columns = tuple(wanted)
    if not 1 <= len(columns) <= MAX_COLUMNS or max(map(len, columns)) > MAX_LABEL_CHARACTERS:
        raise DataError(
            f"{file}: {len(columns)} columns of numbers, expected 1 to {MAX_COLUMNS} with short names"
        )
    for name in columns:
        if name not in header:
            raise DataError(f"{file}: column {name!r}, which the model needs, is not in the header")
    positions = tuple(header.index(name) for name in columns)
    unnamed = tuple(i for i, name in enumerate(header) if not name)
    return _Layout(label, split, columns, positions, unnamed, len(header))


def _label_position(file: Path, header: list[str], label_column: str | None) -> int:
    lowered = [name.lower() for name in header]
    for name in (label_column.lower(),) if label_column else LABEL_COLUMNS:
        if name in lowered:
            return lowered.index(name)
    expected = label_column or ", ".join(LABEL_COLUMNS)
    raise DataError(f"{file}: no label column ({expected}) among {', '.join(header)[:200]}")


def _split(file: Path, line: int, text: str) -> int:
    try:
        return SPLITS[text.strip().lower()]
    except KeyError:
        raise DataError(f"{file}, row {line}: split {text[:40]!r} is none of {', '.join(SPLITS)}") from None


def _delimiter(header: str) -> str:
    return max(DELIMITERS, key=header.count)
