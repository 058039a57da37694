"""Features of pictures: a frozen network runs once a picture, and its head trains on what came out.

The extractor is in memory only while there are pictures that nobody has run: with every feature in the cache
it is not even read. It is gone before a trainer is made, so a device never holds both.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.spec import FeatureInput
from edge_client.data import LocalData, normalise
from edge_client.data.cache import release_pages
from edge_client.runtime import make_interpreter
from edge_client.training.feature_cache import FeatureCache
from edge_client.training.trainer import FloatArray, TrainingError

KEEP_EVERY, KEEP_AFTER_S = 64, 5.0  # pictures, or seconds of work, that a power failure may cost
RELEASE_EVERY = 256  # pictures between two calls to give mapped pages back

Progress = Callable[[int, int], None]  # pictures done and in all
ReadFile = Callable[[], bytes]


class FeatureExtractor:
    """A frozen network in memory: float32 [1, *picture] in, float32 [1, features] out.

    Raises:
        TrainingError: the file is another one, the runtime refuses it, or its shapes are other ones.
    """

    def __init__(self, model: bytes, input: FeatureInput, *, threads: int = 1) -> None:
        if hashlib.sha256(model).hexdigest() != input.extractor:
            raise TrainingError("the extractor's file is not the one that the model was made with")
        try:
            self._interpreter = make_interpreter(model, threads=threads)
        except (ValueError, RuntimeError) as exc:
            raise TrainingError(f"the extractor does not run here: {exc}") from exc
        source, target = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        found = [tuple(int(extent) for extent in detail["shape"]) for detail in (source, target)]
        if found != [(1, *input.picture.shape), (1, input.features)]:
            raise TrainingError(
                f"the extractor takes {found[0]} and gives {found[1]}, for {input.picture.shape} and "
                f"{input.features} features"
            )
        self._source, self._target = int(source["index"]), int(target["index"])

    def __call__(self, picture: FloatArray) -> FloatArray:
        """Features [features] of one preprocessed picture [*picture].

        Raises:
            TrainingError: it does not run, or gives a value that is not finite.
        """
        try:
            self._interpreter.set_tensor(self._source, picture[None])
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as exc:
            raise TrainingError(f"the extractor does not run: {exc}") from exc
        features = np.array(self._interpreter.get_tensor(self._target)[0], np.float32)
        if not np.isfinite(features).all():
            raise TrainingError("the extractor gives features that are not finite")
        return features


def extract_features(
    pictures: LocalData,
    input: FeatureInput,
    read: ReadFile,
    *,
    cache: FeatureCache | None = None,
    sweep: bool = False,
    threads: int = 1,
    progress: Progress = lambda _done, _total: None,
) -> LocalData:
    """The same examples and splits with features in place of pixels.

    Args:
        pictures: as `load_data` gives them for `input.picture`.
        input: the two steps.
        read: the extractor's file; called if a picture is not in the cache.
        cache: asked first, and given what is new every few pictures; None keeps all in memory.
        sweep: nobody else uses the cache: features of other pictures are not kept for ever.
        progress: called after every picture; may raise to end the work, what is cached stays.

    Raises:
        TrainingError: the extractor does not fit, or does not run here.
        OSError: the disk is full.
    """
    wanted = np.sort(np.concatenate([pictures.train_index, pictures.validation_index, pictures.test_index]))
    rows = _rows((len(pictures.inputs), input.features), cache)
    features_of = _Extraction(input, read, cache, threads)
    for done, index in enumerate(wanted.tolist(), start=1):
        rows[index] = features_of(pictures, index)
        if done % RELEASE_EVERY == 0 or done == len(wanted):
            release_pages(pictures.inputs)
            release_pages(rows)
        progress(done, len(wanted))
    features_of.keep()
    if cache is not None and sweep:
        cache.sweep(features_of.used)
    return replace(pictures, inputs=rows)


class _Extraction:
    """The cache in front of the extractor."""

    def __init__(self, input: FeatureInput, read: ReadFile, cache: FeatureCache | None, threads: int) -> None:
        self._input = input
        self._read = read
        self._cache = cache
        self._threads = threads
        self._extractor: FeatureExtractor | None = None
        self.used: set[bytes] = set()  # keys of the pictures so far
        self._fresh: dict[bytes, FloatArray] = {}
        self._kept_at = time.monotonic()

    def __call__(self, pictures: LocalData, index: int) -> FloatArray:
        pixels = pictures.inputs[index]
        if self._cache is None:
            return self._run(pixels)
        key = self._cache.key(pixels)
        self.used.add(key)
        known = self._fresh.get(key)
        if known is None:
            known = self._cache.get(key)
        if known is not None:
            return known
        features = self._fresh[key] = self._run(pixels)
        if len(self._fresh) >= KEEP_EVERY or time.monotonic() - self._kept_at > KEEP_AFTER_S:
            self.keep()
        return features

    def _run(self, pixels: npt.NDArray[Any]) -> FloatArray:
        if self._extractor is None:
            self._extractor = FeatureExtractor(self._read(), self._input, threads=self._threads)
        return self._extractor(normalise(pixels, self._input.picture))

    def keep(self) -> None:
        """Write down what is new."""
        if self._cache is not None:
            self._cache.add(self._fresh)
        self._fresh = {}
        self._kept_at = time.monotonic()


def _rows(shape: tuple[int, int], cache: FeatureCache | None) -> FloatArray:
    """Zeros; beside a cache in a file without a name, so that a thousand rows cost a few pages of memory."""
    if cache is None:
        return np.zeros(shape, np.float32)
    size = 4 * shape[0] * shape[1]
    with tempfile.TemporaryFile(dir=cache.folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk says so here, not with SIGBUS later
        mapped = mmap.mmap(file.fileno(), size)
    return np.frombuffer(mapped, np.float32).reshape(shape)
