"""What federated training is compared with: one machine that has everything, and each client alone.

The same training program, optimiser, first weights and number of epochs as the fleet, in processes of
their own. In a real deployment neither can be had: the first would need the examples in one place.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from broker_server.program import every_example
from compression.spec import ModelSpec, TrainableBundle
from compression.updates import unpack_model
from edge_client.data import DataSource, LocalData, batches
from edge_client.training import LiteRTTrainer
from edge_client.training.examples import load_examples
from edge_client.wire.evaluation import EvaluationSums


@dataclass(frozen=True, slots=True)
class BaselineJob:
    """One training run on one source, evaluated on another."""

    name: str
    bundle: str  # file
    weights: str  # file, `compression.updates.pack_model`
    train: str  # kind:path
    test: str
    epochs: int
    learning_rate: float
    seed: int
    validation_fraction: float = 0.0
    split_seed: int = 0
    extractor: str | None = None  # file, of a transfer model
    cache: str | None = None  # folder, of its features


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """How the trained weights do on the test source."""

    name: str
    sums: EvaluationSums
    seconds: float


def run_baselines(jobs: Sequence[BaselineJob], *, workers: int) -> dict[str, BaselineResult]:
    """Run all jobs, some at a time, each in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=spawn) as pool:
        return {result.name: result for result in pool.map(run_baseline, jobs)}


def run_baseline(job: BaselineJob) -> BaselineResult:
    """Train and evaluate in this process."""
    started = time.monotonic()
    bundle = TrainableBundle.from_bytes(Path(job.bundle).read_bytes())
    spec = bundle.spec
    test = _load(job, job.test, spec, fraction=0.0, seed=0)
    data = _load(job, job.train, spec, fraction=job.validation_fraction, seed=job.split_seed)
    trainer = LiteRTTrainer(bundle)
    trainer.set_weights(unpack_model(Path(job.weights).read_bytes(), spec.tensors))
    rng = np.random.default_rng(job.seed)
    for _ in range(job.epochs):
        trainer.train(
            batches(data, data.train_index, spec, rng=rng, augment=True),
            learning_rate=job.learning_rate,
            rng=rng,
        )
    sums = trainer.evaluate(batches(test, every_example(test), spec))
    return BaselineResult(job.name, sums, time.monotonic() - started)


def _load(job: BaselineJob, source: str, spec: ModelSpec, *, fraction: float, seed: int) -> LocalData:
    extractor, cache = job.extractor, job.cache
    return load_examples(
        DataSource.parse(source),
        spec,
        validation_fraction=fraction,
        seed=seed,
        extractor=None if extractor is None else Path(extractor).read_bytes,
        cache=None if cache is None else Path(cache),
    ).trained
