"""Real examples dealt out to the emulated Pi and two clients on this machine."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from broker_server.simulation.demo_data import prepare_demo_data
from broker_server.simulation.values import DemoData

PROJECT = Path(__file__).resolve().parents[2]
DEVICES = 3
SEED = 7


@dataclass(frozen=True)
class Shares:
    """Who has what. The first client's share is the Pi's."""

    data: DemoData
    said: str  # which data they are, for the output

    @property
    def pi(self) -> Path:
        """The file or folder that goes onto the card."""
        return self.data.clients[0].source.path

    @property
    def pi_kind(self) -> str:
        return self.data.clients[0].source.kind


def deal(folder: Path) -> Shares:
    """PneumoniaMNIST where it is found, else the Wisconsin table that comes with scikit-learn."""
    shutil.rmtree(folder, ignore_errors=True)
    pictures = _pictures()
    dataset = f"npz:{pictures}" if pictures else "wisconsin"
    said = "PneumoniaMNIST (real chest X-rays, 28x28)"
    if pictures is None:
        said = "Breast Cancer Wisconsin (a real table): no PneumoniaMNIST found, set BRAMBLE_DATA"
    data = prepare_demo_data(dataset, devices=DEVICES, partition="iid", directory=folder, seed=SEED)
    return Shares(data, said)


def _pictures() -> Path | None:
    for candidate in (os.environ.get("BRAMBLE_DATA"), PROJECT.parent / "shared" / "data"):
        file = Path(candidate or "") / "pneumoniamnist" / "pneumoniamnist.npz"
        if candidate and file.exists():
            return file
    return None
