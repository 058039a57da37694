"""A data set that is already dealt: one folder a hospital, and a global test folder beside them.

::

    hospitals/hospital_1/train/CLASS/...   also val/ and test/, the hospital's own
    hospitals/hospital_2/...
    hospitals/test/CLASS/...               the server's
    hospitals/val/CLASS/...                if there is one, the server calibrates with it
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from broker_server.simulation.dealing import Progress, Share, deal_files
from broker_server.simulation.errors import SimulationError
from broker_server.simulation.roles import count_classes, require_two_classes
from broker_server.simulation.values import ClientData, DemoData
from edge_client.data import DataSource
from edge_client.data.catalogue import TEST, TRAIN, UNSPLIT, Catalogue
from edge_client.data.files import PictureFiles, open_folder

TEST_FOLDERS = ("test", "global_test", "server_test")
VALIDATION_FOLDERS = ("val", "validation", "global_val")
MAX_NAME_CHARACTERS = 64  # a device's name is a level of an MQTT topic


@dataclass(frozen=True, slots=True)
class Hospitals:
    """The folders of each hospital, by a name that will do for a device, and those of the server."""

    clients: Mapping[str, Path]
    test: Path
    validation: Path | None


def find_hospitals(folder: Path) -> Hospitals:
    """Look for hospitals and the global test folder.

    Raises:
        SimulationError: fewer than two hospitals, or no global test folder.
    """
    if not folder.is_dir():
        raise SimulationError(f"{folder}: no such folder of hospitals")
    inside = {entry.name: entry for entry in sorted(folder.iterdir()) if entry.is_dir()}
    inside = {name: entry for name, entry in inside.items() if not name.startswith((".", "__MACOSX"))}
    test = next((inside[name] for name in TEST_FOLDERS if name in inside), None)
    validation = next((inside[name] for name in VALIDATION_FOLDERS if name in inside), None)
    hospitals = [entry for entry in inside.values() if entry not in (test, validation)]
    if len(hospitals) < 2:
        raise SimulationError(
            f"{folder} holds {len(hospitals)} hospitals: expected hospital_1/train/CLASS/..., hospital_2/... "
            "and test/CLASS/... beside them"
        )
    if test is None:
        raise SimulationError(f"{folder} has no global test folder ({' or '.join(TEST_FOLDERS)})")
    clients: dict[str, Path] = {}
    for entry in hospitals:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", entry.name)[:MAX_NAME_CHARACTERS]
        if name in clients:
            raise SimulationError(f"{entry}: its name reads {name!r} on the wire, as another hospital's does")
        clients[name] = entry
    return Hospitals(clients, test, validation)


def require_no_deal(hospitals: Hospitals, devices: int | None, partition: str | None) -> None:
    """Raise `SimulationError` where a deal is asked for that has already been made."""
    if partition not in (None, "hospital"):
        raise SimulationError(f"partition {partition!r}: hospitals are dealt as they are; leave it out")
    if devices not in (None, len(hospitals.clients)):
        raise SimulationError(
            f"{devices} devices for {len(hospitals.clients)} hospitals: leave the number out"
        )


def from_hospitals(dataset: str, hospitals: Hospitals, directory: Path, progress: Progress) -> DemoData:
    """Leave each hospital's data where it lies; list all training pictures for the centralised baseline."""
    opened = {name: open_folder(folder) for name, folder in hospitals.clients.items()}
    test = open_folder(hospitals.test)
    everything = _joined([*opened.values(), test])
    is_train = np.isin(everything.catalogue.splits, (TRAIN, UNSPLIT))
    is_train[len(is_train) - len(test.paths) :] = False
    require_two_classes(everything, np.flatnonzero(is_train))
    share = Share("train", directory / "server" / "data" / "train", np.flatnonzero(is_train), linked=False)
    (train,) = deal_files(everything, [share], progress)
    calibrated = "the global validation folder calibrates" if hospitals.validation else "nothing calibrates"
    return DemoData(
        dataset=dataset,
        kind="image",
        classes=everything.catalogue.classes,
        columns=(),
        clients=tuple(
            ClientData(name, DataSource("folder", hospitals.clients[name]), _own_counts(files))
            for name, files in opened.items()
        ),
        train=train,
        test=DataSource("folder", hospitals.test),
        calibration=DataSource("folder", hospitals.validation) if hospitals.validation else None,
        further_test=None,
        description=f"{len(share.index)} training pictures of {len(opened)} hospitals, each where it lies; "
        f"the global test folder evaluates; {calibrated}",
    )


def _joined(parts: Sequence[PictureFiles]) -> PictureFiles:
    labels = [part.catalogue.classes[code] for part in parts for code in part.catalogue.codes.tolist()]
    splits = [split for part in parts for split in part.catalogue.splits.tolist()]
    declared = {name for part in parts for name in part.catalogue.classes}
    paths = tuple(path for part in parts for path in part.paths)
    return PictureFiles(parts[0].where, Catalogue.of(labels, splits, declared), paths)


def _own_counts(files: PictureFiles) -> dict[str, int]:
    return count_classes(files.catalogue, np.flatnonzero(files.catalogue.splits != TEST))
