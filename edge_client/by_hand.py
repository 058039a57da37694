"""One site's part in one round without a broker: files in, an update file out.

The same training, coding and error feedback as in a live round (`edge_client.training.local`,
`edge_client.coding`); only what brings the bytes is a person.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compression.progress import Report
from compression.spec import TrainableBundle, Weights, check_weights, weights_digest
from compression.weights_file import WeightsFile, read_weights
from edge_client.coding import Coder
from edge_client.data import Batch, DataSource, LocalData, batches
from edge_client.files import write_atomically
from edge_client.training import LiteRTTrainer
from edge_client.training.examples import load_examples
from edge_client.training.features import ReadFile
from edge_client.training.local import client_rng, train_locally
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.rounds import TrainingPlan, TrainingReport
from edge_client.wire.update_file import UpdateFile, UpdateHeader

BUNDLE_FILE = "bundle.bin"
EXTRACTOR_FILE = "extractor.tflite"  # of a transfer model


@dataclass(frozen=True, slots=True)
class Site:
    """Who trains on what."""

    name: str
    source: DataSource
    validation_fraction: float = 0.0
    threads: int = 1
    cache: Path | None = None  # folder for decoded pictures and features, from one round to the next


def read_bundle_file(path: Path) -> TrainableBundle:
    """Read a bundle's file, or the one in the folder that ``bramble-compress trainable`` made.

    Raises:
        SpecError: it is not a bundle.
    """
    return TrainableBundle.from_bytes((path / BUNDLE_FILE if path.is_dir() else path).read_bytes())


def extractor_beside(path: Path) -> ReadFile | None:
    """What reads the extractor in the folder of a bundle; None if there is none."""
    file = (path if path.is_dir() else path.parent) / EXTRACTOR_FILE
    return file.read_bytes if file.exists() else None


def train_once(
    bundle: TrainableBundle,
    weights: Weights,
    site: Site,
    plan: TrainingPlan,
    *,
    round_number: int = 1,
    residual: Path | None = None,
    extractor: ReadFile | None = None,
    report: Report = lambda _what, _share: None,
) -> UpdateFile:
    """Train on a site's examples from the global weights, and code what comes out.

    Args:
        round_number: that the update is for, from 1.
        residual: file of what earlier updates kept back: read if it is there, then written anew.
        extractor: reads the file of a transfer model's frozen part.
        report: told what is being done.

    Raises:
        SpecError: weights of another model, or training that diverged.
        DataError, CodecError, TrainingError: as loading, coding and training raise.
    """
    check_weights(weights, bundle.spec)
    data = load_examples(
        site.source,
        bundle.spec,
        validation_fraction=site.validation_fraction,
        seed=0,
        extractor=extractor,
        cache=site.cache,
        threads=site.threads,
        progress=lambda done, total: report("reading pictures", done / max(total, 1)),
    ).trained
    trainer = LiteRTTrainer(bundle, threads=site.threads)
    trainer.set_weights(weights)
    evaluation = _evaluate(trainer, data)
    training = _train(trainer, data, plan, client_rng(plan, round_number, site.name), report)
    local = trainer.get_weights()
    check_weights(local, bundle.spec)
    delta = {name: local[name] - array for name, array in weights.items()}
    payload = _coded(delta, Coder.of(bundle.spec, bundle.digest, plan.codec, round_number), residual)
    header = UpdateHeader(
        site=site.name,
        bundle=bundle.digest,
        weights=weights_digest(weights),
        round=round_number,
        codec=plan.codec,
        training=training,
        evaluation=evaluation,
    )
    return UpdateFile(header, payload)


def _evaluate(trainer: LiteRTTrainer, data: LocalData) -> EvaluationSums | None:
    if not len(data.validation_index):
        return None
    return trainer.evaluate(batches(data, data.validation_index, trainer.spec))


def _train(
    trainer: LiteRTTrainer, data: LocalData, plan: TrainingPlan, rng: np.random.Generator, report: Report
) -> TrainingReport:
    total = plan.epochs * -(-len(data.train_index) // trainer.spec.batch_size)
    done = iter(range(1, total + 1))

    def watch(epoch: Iterator[Batch]) -> Iterator[Batch]:
        for batch in epoch:
            yield batch
            report("training", next(done, total) / total)

    started = time.monotonic()
    sums = train_locally(trainer, data, plan, rng, watch=watch)
    return TrainingReport(
        examples=len(data.train_index),
        steps=sums.steps,
        loss=sums.loss or 0.0,
        seconds=time.monotonic() - started,
        base_version=0,
    )


def _coded(delta: Weights, coder: Coder, residual: Path | None) -> bytes:
    owed = read_weights(residual).weights if residual and residual.exists() else None
    payload, kept = coder.update(delta, owed)
    if residual is not None:
        write_atomically(residual, WeightsFile(dict(kept)).to_bytes())
    return payload
