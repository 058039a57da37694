"""Trains a bundle with what a device has: numpy and one TFLite runtime. Imported by tests and run by itself.

python runtime_worker.py DIRECTORY LEARNING_RATE SEED
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.spec import TrainableBundle
from edge_client.training import LiteRTTrainer


@dataclass(frozen=True)
class Examples:
    """A batch as the trainer takes it."""

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """What a runtime made of some batches."""

    losses: list[float]
    weights: dict[str, npt.NDArray[np.float32]]
    probabilities: npt.NDArray[np.float32]
    peak_rss_mb: float = 0.0  # of the process, where it did nothing else


def train(
    bundle: TrainableBundle, weights: Mapping[str, Any], batches: Sequence[Any], *, rate: float, seed: int = 0
) -> Outcome:
    """One step a batch, then a prediction for the first batch."""
    trainer = LiteRTTrainer(bundle)
    trainer.set_weights(weights)
    rng = np.random.default_rng(seed)
    losses = [trainer.train([batch], learning_rate=rate, rng=rng).loss for batch in batches]
    probabilities = trainer.predict(batches[0].inputs)
    return Outcome([float(loss or 0.0) for loss in losses], trainer.get_weights(), probabilities)


def main(directory: Path, rate: float, seed: int) -> None:
    """Read bundle, weights and batches from the directory, write the outcome there."""
    bundle = TrainableBundle.from_bytes((directory / "bundle").read_bytes())
    stacked = np.load(directory / "batches.npz")
    batches = [
        Examples(*arrays)
        for arrays in zip(stacked["inputs"], stacked["labels"], stacked["weights"], strict=True)
    ]
    outcome = train(bundle, dict(np.load(directory / "weights.npz")), batches, rate=rate, seed=seed)
    if "tensorflow" in sys.modules:
        raise SystemExit("TensorFlow was imported")
    np.savez(
        directory / "outcome.npz",
        losses=outcome.losses,
        probabilities=outcome.probabilities,
        peak_rss_mb=_peak_rss_mb(),
        **outcome.weights,
    )


def _peak_rss_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
