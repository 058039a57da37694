"""Features on the device: made once a picture, kept through kills, never more than one network in memory."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.spec import FeatureInput, ImageInput
from edge_client.data import LocalData
from edge_client.training import TrainingError, feature_cache, features
from edge_client.training.feature_cache import FeatureCache
from edge_client.training.features import extract_features

CHECKOUT = Path(__file__).resolve().parents[2]
PICTURE = ImageInput(4, 4)
FILE = b"an extractor"
STEPS = FeatureInput(PICTURE, hashlib.sha256(FILE).hexdigest(), 3)


class Extractor:
    """The real one's interface: minimum, mean and maximum of a picture."""

    runs = 0
    made = 0

    def __init__(self, _model: bytes, input: FeatureInput, *, threads: int = 1) -> None:
        type(self).made += 1

    def __call__(self, picture: Any) -> Any:
        type(self).runs += 1
        return np.array([picture.min(), picture.mean(), picture.max()], np.float32)


@pytest.fixture(autouse=True)
def extractor(monkeypatch: pytest.MonkeyPatch) -> type[Extractor]:
    fresh = type("Fresh", (Extractor,), {"runs": 0, "made": 0})
    monkeypatch.setattr(features, "FeatureExtractor", fresh)
    return fresh


@pytest.fixture
def pictures() -> LocalData:
    """Ten of which the last is the first again; one could not be read."""
    pixels = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4, 1)
    pixels[9] = pixels[0]
    index = np.array([0, 1, 2, 3, 4, 5, 9])
    empty = np.zeros(0, np.int64)
    return LocalData(pixels, np.zeros(10, np.int32), ("a", "b"), index, np.array([6, 7]), empty, 1)


def read() -> bytes:
    return FILE


def by_hand(data: LocalData, index: int) -> list[float]:
    pixels = data.inputs[index].astype(np.float32) * np.float32(1 / 255)
    return [float(pixels.min()), float(pixels.mean()), float(pixels.max())]


def test_each_picture_is_run_once_whatever_its_name(
    pictures: LocalData, tmp_path: Path, extractor: type[Extractor]
) -> None:
    data = extract_features(pictures, STEPS, read, cache=FeatureCache(tmp_path, STEPS))
    assert data.inputs.shape == (10, 3) and data.train_index is pictures.train_index
    for index in (0, 5, 7, 9):
        np.testing.assert_allclose(data.inputs[index], by_hand(pictures, index), rtol=1e-6)
    assert not data.inputs[8].any()  # of no split
    assert extractor.runs == 8
    again = extract_features(
        pictures, STEPS, lambda: pytest.fail("read"), cache=FeatureCache(tmp_path, STEPS)
    )
    np.testing.assert_array_equal(again.inputs, data.inputs)
    assert (extractor.runs, extractor.made) == (8, 1)  # the file is not even opened
    plain = extract_features(pictures, STEPS, read)
    np.testing.assert_array_equal(plain.inputs, data.inputs)


def test_what_a_stop_or_a_power_failure_leaves_is_gone_on_from(
    pictures: LocalData, tmp_path: Path, extractor: type[Extractor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "KEEP_EVERY", 2)

    def stop(done: int, _total: int) -> None:
        if done == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        extract_features(pictures, STEPS, read, cache=FeatureCache(tmp_path, STEPS), progress=stop)
    assert extractor.runs == 5 and len(FeatureCache(tmp_path, STEPS)) == 4
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    damaged = bytearray(whole[: -len(whole) // 8])  # the last one was cut off
    damaged[40] ^= 1  # and a bit of the first turned
    file.write_bytes(damaged)
    cache = FeatureCache(tmp_path, STEPS)
    assert len(cache) == 2
    done = extract_features(pictures, STEPS, read, cache=cache)
    np.testing.assert_allclose(done.inputs[0], by_hand(pictures, 0), rtol=1e-6)
    assert extractor.runs == 5 + 6 and len(FeatureCache(tmp_path, STEPS)) == 8


def test_the_rows_lie_on_the_disk_of_the_cache(pictures: LocalData, tmp_path: Path) -> None:
    data = extract_features(pictures, STEPS, read, cache=FeatureCache(tmp_path, STEPS))
    base: Any = data.inputs
    while isinstance(base, np.ndarray):
        base = base.base
    assert base is not None and len(list(tmp_path.iterdir())) == 1  # mapped, without a name


def test_a_full_disk_is_an_error_and_leaves_what_was_there(
    pictures: LocalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        extract_features(pictures, STEPS, read, cache=FeatureCache(tmp_path, STEPS))


def test_files_of_old_extractors_go(tmp_path: Path) -> None:
    for number in range(4):
        steps = FeatureInput(PICTURE, hashlib.sha256(bytes([number])).hexdigest(), 3)
        FeatureCache(tmp_path, steps).add({bytes(32): np.zeros(3, np.float32)})
        os.utime(tmp_path / f"features-{steps.extractor[:32]}.bin", (number, number))
    assert len(list(tmp_path.iterdir())) == feature_cache.FILES_KEPT


def keeping(pictures: LocalData, folder: Path, rows: list[int]) -> FeatureCache:
    """The cache after an extraction of these pictures alone."""
    left = replace(pictures, train_index=np.array(rows), validation_index=np.zeros(0, np.int64))
    cache = FeatureCache(folder, STEPS)
    found = extract_features(left, STEPS, read, cache=cache, sweep=True)
    for row in rows:
        np.testing.assert_allclose(found.inputs[row], by_hand(pictures, row), rtol=1e-6)
        known = cache.get(cache.key(pictures.inputs[row]))
        np.testing.assert_array_equal(known, found.inputs[row])
    return cache


def test_features_of_pictures_that_are_gone_go_once_they_are_the_most(
    pictures: LocalData, tmp_path: Path, extractor: type[Extractor]
) -> None:
    assert len(keeping(pictures, tmp_path, [0, 1, 2, 3, 4, 5, 6, 7])) == 8
    assert len(keeping(pictures, tmp_path, [1, 3, 5, 7])) == 8  # half of them: no need yet
    reader = FeatureCache(tmp_path, STEPS)
    assert len(keeping(pictures, tmp_path, [5, 7, 8])) == 3  # one more has come, and nine are too many
    assert len(FeatureCache(tmp_path, STEPS)) == 3 and extractor.runs == 9
    [file] = tmp_path.iterdir()
    assert file.stat().st_size == 3 * (32 + 4 * 3 + 4)
    assert reader.get(reader.key(pictures.inputs[1])) is None  # of a process that knows the old file
    assert reader.get(reader.key(pictures.inputs[7])) is None  # it lies elsewhere: made again, never mixed up


def test_a_cache_of_several_sources_is_not_swept(pictures: LocalData, tmp_path: Path) -> None:
    keeping(pictures, tmp_path, [0, 1, 2, 3, 4])
    left = replace(pictures, train_index=np.array([7]), validation_index=np.zeros(0, np.int64))
    extract_features(left, STEPS, read, cache=FeatureCache(tmp_path, STEPS))
    assert len(FeatureCache(tmp_path, STEPS)) == 6


def test_a_sweep_on_a_full_disk_leaves_all_as_it_was(
    pictures: LocalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping(pictures, tmp_path, [0, 1, 2, 3, 4])
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def full(_stream: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert len(keeping(pictures, tmp_path, [0])) == 5
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from edge_client.data import LocalData
from edge_client.training import features
from edge_client.training.feature_cache import FeatureCache
from tests.edge_client import test_training_features as cases

features.FeatureExtractor, features.KEEP_EVERY = cases.Extractor, 10
pixels = np.random.default_rng(0).integers(0, 255, (1000, 4, 4, 1)).astype(np.uint8)
index = np.arange(1000)
data = LocalData(pixels, np.zeros(1000, np.int32), ("a", "b"), index, index[:0], index[:0], 0)

def progress(done, total):
    if done > 300:
        print(done, flush=True)
        time.sleep(60)

cache = FeatureCache(Path(sys.argv[1]), cases.STEPS)
features.extract_features(data, cases.STEPS, cases.read, cache=cache, progress=progress)
"""


def test_a_killed_extraction_keeps_what_it_has_made(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "301\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert len(FeatureCache(tmp_path, STEPS)) == 300


def test_features_without_an_extractor_are_refused(tmp_path: Path) -> None:
    from compression.spec import ModelSpec, TensorSpec
    from edge_client.data import DataSource
    from edge_client.training.examples import load_examples

    file = tmp_path / "pictures.npz"
    np.savez(file, images=np.zeros((8, 4, 4), np.uint8), labels=np.arange(8) % 2)
    spec = ModelSpec("head", STEPS, ("0", "1"), (TensorSpec("w", (3, 2)),))
    with pytest.raises(TrainingError, match="give the file of its extractor"):
        load_examples(DataSource("npz", file), spec, validation_fraction=0.0, seed=0)
    found = load_examples(
        DataSource("npz", file), spec, validation_fraction=0.0, seed=0, extractor=read, cache=tmp_path / "c"
    )
    assert found.trained.inputs.shape == (8, 3) and found.raw.inputs.shape == (8, 4, 4, 1)
    whole = load_examples(DataSource("npz", file), spec.whole, validation_fraction=0.0, seed=0)
    assert whole.trained is whole.raw
