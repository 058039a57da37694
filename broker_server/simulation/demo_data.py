"""The demonstration's data: one data set, dealt out to clients, the rest kept by the server.

Each client's share lies in its own folder and is all that its process is told about. The server
keeps a held-out set for evaluation, a small calibration set for int8 that neither trains nor
evaluates, and, for the comparison with centralised training only, a list of all training examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from broker_server.simulation.dealing import (
    Index,
    Progress,
    Share,
    deal_arrays,
    deal_files,
    deal_rows,
)
from broker_server.simulation.errors import SimulationError
from broker_server.simulation.hospitals import find_hospitals, from_hospitals, require_no_deal
from broker_server.simulation.partitions import parse_partition
from broker_server.simulation.partitions import partition as deal_out
from broker_server.simulation.roles import Roles, Source, assign_roles, count_classes
from broker_server.simulation.values import ClientData, DemoData
from edge_client.data import DataSource
from edge_client.data.arrays import PictureArrays, open_npz
from edge_client.data.catalogue import UNSPLIT, Catalogue
from edge_client.data.files import PictureFiles, open_folder, open_list
from edge_client.data.table import Table, read_table

DATASETS = "wisconsin, folder:PATH, hospitals:PATH, csv:PATH, npz:PATH or table:PATH"


def prepare_demo_data(
    dataset: str,
    *,
    devices: int | None = None,
    partition: str | None = None,
    directory: Path,
    seed: int,
    progress: Progress = lambda _what, _done, _total: None,
    label_column: str | None = None,
) -> DemoData:
    """Deal a data set out.

    Args:
        dataset: ``wisconsin``, ``folder:PATH``, ``hospitals:PATH``, ``csv:PATH``, ``npz:PATH`` or
            ``table:PATH``.
        devices: number of clients; 4 by default, and with hospitals one for each of them.
        partition: see `broker_server.simulation.partitions`; ``iid`` by default; none with hospitals.
        directory: each client's data goes to ``directory/NAME/data``, the server's to
            ``directory/server/data``. Data of an earlier run there is replaced.
        seed: of the held-out draw and of the deal.
        progress: called with what is being done, how much is done and how much there is.
        label_column: of a csv or table whose label column has none of the usual names.

    Raises:
        DataError, of which `SimulationError`: the data set or the partition cannot be used.
    """
    kind, colon, path = dataset.partition(":")
    if kind == "hospitals" and path:
        hospitals = find_hospitals(Path(path).expanduser())
        require_no_deal(hospitals, devices, partition)
        return from_hospitals(dataset, hospitals, directory, progress)
    if dataset != "wisconsin" and (kind not in ("folder", "csv", "npz", "table") or not colon or not path):
        raise SimulationError(f"data set {dataset!r}: expected {DATASETS}")
    plan = parse_partition(partition or "iid", 4 if devices is None else devices)
    source = wisconsin() if dataset == "wisconsin" else _open(kind, Path(path).expanduser(), label_column)
    rng = np.random.default_rng(seed)
    roles = assign_roles(source, rng)
    parts = deal_out(source.catalogue.codes[roles.pool], plan, plan.devices, rng)
    shares = _shares(roles, parts, directory, linked=kind == "folder")
    written = dict(zip((share.name for share in shares), _write(source, shares, progress), strict=True))
    return DemoData(
        dataset=dataset,
        kind="table" if isinstance(source, Table) else "image",
        classes=source.catalogue.classes,
        columns=source.columns if isinstance(source, Table) else (),
        clients=tuple(
            ClientData(share.name, written[share.name], count_classes(source.catalogue, share.index))
            for share in shares[: plan.devices]
        ),
        train=written["train"],
        test=written["test"],
        calibration=written.get("calibration"),
        further_test=written.get("further"),
        description=f"{len(roles.pool)} training examples dealt to {plan.devices} clients ({plan}); "
        + roles.description,
    )


def wisconsin() -> Table:
    """The Breast Cancer Wisconsin (Diagnostic) table that comes with scikit-learn: 569 rows, 30 columns."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    labels = [str(bunch.target_names[target]) for target in bunch.target]
    return Table(
        where="wisconsin",
        columns=tuple(map(str, bunch.feature_names)),
        rows=np.asarray(bunch.data, np.float64),
        catalogue=Catalogue.of(labels, [UNSPLIT] * len(labels)),
        lines=np.arange(2, len(labels) + 2, dtype=np.int32),
    )


def _open(kind: str, path: Path, label_column: str | None) -> Source:
    if kind == "folder":
        return open_folder(path)
    if kind == "csv":
        return open_list(path, label_column)
    return open_npz(path) if kind == "npz" else read_table(path, label_column)


def _shares(roles: Roles, parts: Sequence[Index], directory: Path, *, linked: bool) -> list[Share]:
    """The clients' shares, and after them the server's sets that are not empty."""
    clients = {f"device-{number}": roles.pool[part] for number, part in enumerate(parts, start=1)}
    kept = {
        "train": roles.pool,
        "test": roles.test,
        "calibration": roles.calibration,
        "further": roles.further,
    }
    return [
        *(Share(name, directory / name / "data", index, linked) for name, index in clients.items()),
        *(
            Share(name, directory / "server" / "data" / name, index, linked=False)
            for name, index in kept.items()
            if len(index)
        ),
    ]


def _write(source: Source, shares: Sequence[Share], progress: Progress) -> list[DataSource]:
    if isinstance(source, PictureFiles):
        return deal_files(source, shares, progress)
    if isinstance(source, PictureArrays):
        return deal_arrays(source, shares, progress)
    return deal_rows(source, shares, progress)
