"""Where a device's examples lie, as one line of text in its settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edge_client.data.errors import DataError

Kind = Literal["folder", "csv", "npz", "table"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class DataSource:
    """A kind and a path.

    Attributes:
        kind: "folder" of pictures by class, also with ``train``, ``val`` and ``test`` above the
            classes; "csv" of path and label; "npz" of picture arrays; "table" of numbers as CSV.
        path: the folder or file.
        label_column: of a csv or table whose label column has none of the usual names.
        pictures: folder from which the paths in a csv count; None for the csv's own.
    """

    kind: Kind
    path: Path
    label_column: str | None = None
    pictures: Path | None = None

    @classmethod
    def parse(cls, text: str, *, base: Path | None = None, label_column: str | None = None) -> DataSource:
        """Read ``KIND:PATH``; a relative path counts from `base`, or from the working directory."""
        kind, colon, path = text.partition(":")
        if not colon or kind not in KINDS or not path:
            forms = ", ".join(f"{known}:PATH" for known in KINDS)
            raise DataError(f"data source {text!r}: expected one of {forms}")
        full = Path(base or "", os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises without a home
        return cls(kind, full, label_column)

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"


def find_source(text: str, labels: Path | None = None) -> DataSource:
    """What somebody who types a path means: ``KIND:PATH``, or a path whose kind shows.

    Args:
        text: a folder, an npz, a CSV of a table; or a folder of pictures whose `labels` are in a CSV.

    Raises:
        DataError: neither.
    """
    kind, colon, _ = text.partition(":")
    path = Path(text)
    if labels is not None:
        if not path.is_dir():
            raise DataError(f"{text} is not a folder, and labels in {labels} name pictures in one")
        return DataSource("csv", labels, pictures=path)
    if colon and kind in KINDS:
        return DataSource.parse(text)
    if path.is_dir():
        return DataSource("folder", path)
    if not path.exists():
        raise DataError(f"{text}: no such file or folder")
    return DataSource("npz" if path.suffix == ".npz" else "table", path)
