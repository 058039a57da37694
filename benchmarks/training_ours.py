"""Child without TensorFlow: trains a bundle as a device does. ``... BUNDLE THREADS MAX_SECONDS``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.training_batch import LEARNING_RATE, SEED, answer, made_up_batch, time_steps
from compression.spec import ModelSpec, TrainableBundle
from compression.weights_file import read_weights
from edge_client.measure.children import pin
from edge_client.runtime import runtime_name, runtime_version
from edge_client.training import LiteRTTrainer, TrainingError


@dataclass(frozen=True, slots=True)
class MadeUpBatch:
    """As `edge_client.data.Batch`, without what loads pictures."""

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


def main(argv: Sequence[str]) -> int:
    """Train one batch again and again."""
    path, threads, max_s = Path(argv[0]), int(argv[1]), float(argv[2])
    pin(threads)
    started = time.perf_counter()
    bundle = TrainableBundle.from_bytes(path.read_bytes())
    spec = bundle.spec
    try:
        trainer = LiteRTTrainer(bundle, threads=threads)
        weights = path.with_name("weights.npz")
        trainer.set_weights(read_weights(weights).weights if weights.exists() else random_weights(spec))
        inputs, labels = made_up_batch(spec.input.shape, spec.batch_size, len(spec.classes))
        batch: Any = MadeUpBatch(inputs, labels, np.ones(spec.batch_size, np.float32))
        rng = np.random.default_rng(SEED)
        load_ms = 1e3 * (time.perf_counter() - started)
        measured = time_steps(
            lambda: trainer.train([batch], learning_rate=LEARNING_RATE, rng=rng).loss or 0.0,
            max_s=max_s,
            load_ms=load_ms,
        )
    except TrainingError as exc:
        answer({"error": str(exc)})
        return 1
    facts = {
        "batch": spec.batch_size,
        "runtime": f"{runtime_name()} {runtime_version()}",
        "imports_tensorflow": "tensorflow" in sys.modules,
    }
    answer(measured | facts)
    return 0


def random_weights(spec: ModelSpec) -> dict[str, npt.NDArray[np.float32]]:
    """Small enough for any depth; statistics of 1, since a variance of 0 or less means nothing."""
    rng = np.random.default_rng(SEED)
    return {
        tensor.name: np.ones(tensor.shape, np.float32)
        if tensor.role == "statistic"
        else (0.05 * rng.standard_normal(tensor.shape)).astype(np.float32)
        for tensor in spec.tensors
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
