"""A source of examples for a model: as its program trains on them, and as the released network takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compression.spec import FeatureInput, ModelSpec
from edge_client.data import DataSource, LocalData, load_data
from edge_client.training.feature_cache import FeatureCache
from edge_client.training.features import ReadFile, extract_features
from edge_client.training.trainer import TrainingError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Examples:
    """The same examples and splits twice; one and the same for a model without an extractor.

    Attributes:
        trained: for the spec's own input: pixels, rows, or features.
        raw: for `spec.whole`: pixels or rows.
    """

    trained: LocalData
    raw: LocalData


def load_examples(
    source: DataSource,
    spec: ModelSpec,
    *,
    validation_fraction: float,
    seed: int,
    extractor: ReadFile | None = None,
    cache: Path | None = None,
    sweep: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
    extracting: Progress | None = None,
) -> Examples:
    """Load a source for a model, through its extractor if it has one.

    Args:
        extractor: reads the extractor's file.
        cache: folder for decoded pictures and features; None keeps them in memory.
        sweep: the folder is this source's alone: features of pictures that are gone go as well.
        progress: called with the numbers of pictures done and in all.
        extracting: the same while features are made; it may raise to end that, since what is made is kept.
            None takes `progress`.

    Raises:
        DataError: the source cannot be used with this model.
        TrainingError: the extractor is missing, another one, or does not run here.
    """
    raw = load_data(
        source,
        spec.raw_input,
        spec.classes,
        validation_fraction=validation_fraction,
        seed=seed,
        cache=cache,
        progress=progress,
    )
    if not isinstance(spec.input, FeatureInput):
        return Examples(raw, raw)
    if extractor is None:
        raise TrainingError(f"model {spec.name!r} trains on features: give the file of its extractor too")
    trained = extract_features(
        raw,
        spec.input,
        extractor,
        cache=None if cache is None else FeatureCache(cache, spec.input),
        sweep=sweep,
        threads=threads,
        progress=extracting or progress or (lambda _done, _total: None),
    )
    return Examples(trained, raw)
