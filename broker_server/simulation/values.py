"""What `prepare_demo_data` hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_client.data import DataSource


@dataclass(frozen=True, slots=True)
class ClientData:
    """One client's share: its name, its source, and how many examples it has of each class."""

    name: str
    source: DataSource
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DemoData:
    """A data set ready for a demonstration.

    The server's sources are loaded with ``load_data(source, input, classes, validation_fraction=0,
    seed=0)``; all their examples are then in ``train_index``.

    Attributes:
        dataset: as it was asked for.
        kind: pictures or table rows.
        classes: of the whole data set; for two the second is the positive one.
        columns: of a table.
        clients: in order.
        train: all clients' examples together, for the centralised baseline.
        test: the held-out set the server evaluates on.
        calibration: for full-integer quantisation; None where nothing can be spared.
        further_test: a given test split where ``test`` is the given validation split.
        description: one sentence that says which split is which.
    """

    dataset: str
    kind: Literal["image", "table"]
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    clients: tuple[ClientData, ...]
    train: DataSource
    test: DataSource
    calibration: DataSource | None
    further_test: DataSource | None
    description: str
