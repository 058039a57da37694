"""Splits, the cache of decoded pictures, and the batches that training and evaluation take."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.spec import Augmentation, ImageInput, ModelSpec, TableInput, TensorSpec
from edge_client.data import (
    DataError,
    DataSource,
    LocalData,
    augment_pictures,
    balanced_weights,
    batches,
    load_data,
)
from edge_client.data import cache as cache_module
from edge_client.data.cache import replacing
from edge_client.data.catalogue import Catalogue
from edge_client.data.splitting import split_examples

GREY = ImageInput(height=4, width=4)


def spec(batch_size: int = 4, **changes: object) -> ModelSpec:
    settings = {"name": "m", "input": GREY, "classes": ("no", "yes"), "tensors": (TensorSpec("w", (1,)),)}
    return ModelSpec(**(settings | {"batch_size": batch_size} | changes))


def local(count: int = 10) -> LocalData:
    inputs = np.arange(count, dtype=np.uint8).repeat(16).reshape(count, 4, 4, 1)
    labels = (np.arange(count) % 2).astype(np.int32)
    none = np.zeros(0, np.int64)
    return LocalData(inputs, labels, ("no", "yes"), np.arange(count), none, none, 0)


# ---- splits ----


def catalogue(*counts: int) -> Catalogue:
    labels = [str(label) for label, count in enumerate(counts) for _ in range(count)]
    return Catalogue.of(labels, [0] * len(labels), map(str, range(len(counts))))


@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=4).filter(lambda counts: sum(counts) >= 2),
    st.floats(0.05, 0.9),
    st.integers(0, 2**31),
)
def test_splits_are_stratified_disjoint_and_repeatable(counts: list[int], fraction: float, seed: int) -> None:
    examples = catalogue(*counts)
    kept = np.ones(sum(counts), np.bool_)
    split = split_examples(examples, kept, "here", validation_fraction=fraction, seed=seed)
    again = split_examples(examples, kept, "here", validation_fraction=fraction, seed=seed)
    np.testing.assert_array_equal(split.validation, again.validation)
    both = np.concatenate([split.train, split.validation])
    assert sorted(both.tolist()) == list(range(sum(counts)))
    held_out = np.bincount(examples.codes[split.validation], minlength=len(counts))
    for count, held in zip(counts, held_out, strict=True):
        assert held < max(count, 1) or count == 0  # each class present keeps some for training
        if count >= 4:
            assert held >= 1
            assert abs(held - count * fraction) <= 1


def test_a_split_depends_on_class_name_and_count_alone() -> None:
    kept = np.ones(40, np.bool_)
    two = split_examples(catalogue(20, 20), kept, "", validation_fraction=0.3, seed=5)
    three = split_examples(catalogue(20, 20, 0), kept, "", validation_fraction=0.3, seed=5)
    np.testing.assert_array_equal(two.validation, three.validation)
    other = split_examples(catalogue(20, 20), kept, "", validation_fraction=0.3, seed=6)
    assert two.validation.tolist() != other.validation.tolist()


def test_two_examples_of_one_class_are_shared() -> None:
    split = split_examples(catalogue(2, 0), np.ones(2, np.bool_), "", validation_fraction=0.2, seed=0)
    assert (len(split.train), len(split.validation)) == (1, 1)


@pytest.mark.parametrize("fraction", [-0.1, 0.95, float("nan")])
def test_fractions_that_make_no_sense(fraction: float) -> None:
    with pytest.raises(DataError, match=r"must be from 0 to 0\.9"):
        split_examples(catalogue(5, 5), np.ones(10, np.bool_), "", validation_fraction=fraction, seed=0)


# ---- cache ----


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    from PIL import Image

    for label in ("no", "yes"):
        (tmp_path / "scans" / label).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (6, 6), 40 * number).save(tmp_path / "scans" / label / f"{number}.png")
    (tmp_path / "scans" / "no" / "broken.png").write_bytes(b"")
    return DataSource("folder", tmp_path / "scans")


def load(source: DataSource, cache: Path | None, input: ImageInput = GREY) -> LocalData:
    return load_data(source, input, ("no", "yes"), validation_fraction=0.3, seed=0, cache=cache)


def files_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_the_cache_holds_what_decoding_gives(source: DataSource, tmp_path: Path, monkeypatch) -> None:
    plain = load(source, None)
    first = load(source, tmp_path / "cache")
    monkeypatch.setattr(cache_module, "_write", None)  # the second time nothing may be written
    second = load(source, tmp_path / "cache")
    for data in (first, second):
        np.testing.assert_array_equal(data.inputs, plain.inputs)
        np.testing.assert_array_equal(data.train_index, plain.train_index)
        assert data.skipped == plain.skipped == 1
        assert not data.inputs.flags.writeable
    assert len(files_in(tmp_path / "cache")) == 2


def test_a_changed_picture_or_input_makes_a_new_cache_and_old_ones_go(
    source: DataSource, tmp_path: Path
) -> None:
    from PIL import Image

    load(source, tmp_path / "cache")
    Image.new("L", (6, 6), 222).save(source.path / "no" / "0.png")
    assert 222 in load(source, tmp_path / "cache").inputs
    for edge in (5, 6, 7):
        assert load(source, tmp_path / "cache", ImageInput(edge, edge)).inputs.shape[1] == edge
    assert len(files_in(tmp_path / "cache")) == 2 * cache_module.FILES_KEPT


def test_the_same_size_with_another_time_is_a_change(source: DataSource, tmp_path: Path) -> None:
    load(source, tmp_path / "cache")
    before = files_in(tmp_path / "cache")
    os.utime(source.path / "no" / "0.png", ns=(1, 1))
    load(source, tmp_path / "cache")
    assert len(set(files_in(tmp_path / "cache")) - set(before)) == 2


@pytest.mark.parametrize("suffix", [".npy", ".kept.npy"])
@pytest.mark.parametrize("damage", ["gone", "short", "foreign"])
def test_a_damaged_cache_is_made_again(source: DataSource, tmp_path: Path, suffix: str, damage: str) -> None:
    plain = load(source, tmp_path / "cache").inputs.copy()
    names = [
        name for name in files_in(tmp_path / "cache") if name.endswith(".kept.npy") == (suffix == ".kept.npy")
    ]
    file = tmp_path / "cache" / names[0]
    whole = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(whole[:-1] if damage == "short" else b"something else")
    np.testing.assert_array_equal(load(source, tmp_path / "cache").inputs, plain)
    assert file.read_bytes() == whole


def test_what_a_killed_decoding_left_goes_and_what_is_being_written_stays(
    source: DataSource, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    left = folder / ".pictures-of-old.npy.1.part"
    foreign = folder / ".holidays.mp4.part"
    for file in (left, foreign):
        file.write_bytes(b"half")
    with replacing(folder / "another") as stream:
        stream.write(b"whole")
        load(source, folder)
    assert not left.exists() and (folder / "another").read_bytes() == b"whole"
    assert foreign.exists()  # of somebody else's program: a table is dealt out into any folder


def test_a_cache_that_cannot_be_written_is_one_error(source: DataSource, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cache of decoded pictures cannot be written"):
        load(source, tmp_path / "file")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(file) as stream:
        stream.write(b"new")
        raise ZeroDivisionError
    assert files_in(tmp_path) == ["kept"]
    assert file.read_bytes() == b"old"


def test_progress_is_told(source: DataSource, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for cache in (None, tmp_path / "cache"):
        load_data(
            source,
            GREY,
            ("no", "yes"),
            validation_fraction=0,
            seed=0,
            cache=cache,
            progress=lambda done, total: told.append((done, total)),
        )
    assert told == 2 * [(done, 7) for done in range(1, 8)]


# ---- batches ----


def test_evaluation_batches_are_in_order_and_padded_exactly() -> None:
    made = list(batches(local(), np.arange(10), spec()))
    assert [batch.inputs.shape for batch in made] == [(4, 4, 4, 1)] * 3
    assert np.concatenate([batch.weights for batch in made]).tolist() == [1.0] * 10 + [0.0] * 2
    levels = np.concatenate([batch.inputs[:, 0, 0, 0] for batch in made])[:10]
    np.testing.assert_allclose(levels, np.arange(10) / 255, rtol=1e-6)
    assert np.concatenate([batch.labels for batch in made])[:10].tolist() == [0, 1] * 5
    assert made[0].inputs.dtype == made[0].weights.dtype == np.float32
    assert made[0].labels.dtype == np.int32
    np.testing.assert_array_equal(made[2].inputs[2:], made[2].inputs[:2])  # padded with the batch's own


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 1000))
def test_an_epoch_holds_each_example_once(count: int, batch_size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = list(batches(local(40), np.arange(count), spec(batch_size), rng=rng))
    assert len(made) == -(-count // batch_size)
    seen = [
        round(float(level) * 255)
        for batch in made
        for level, weight in zip(batch.inputs[:, 0, 0, 0], batch.weights, strict=True)
        if weight
    ]
    assert sorted(seen) == list(range(count))


def test_the_order_is_drawn_from_the_generator() -> None:
    def order(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        return b"".join(
            batch.labels.tobytes() for batch in batches(local(40), np.arange(40), spec(), rng=rng)
        )

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_class_weights_let_classes_count_the_same() -> None:
    assert balanced_weights([30, 10]) == (2 / 3, 2.0)
    assert balanced_weights([30, 0]) == (1.0, 1.0)
    (batch,) = batches(local(3), np.arange(3), spec(), class_weights=(0.5, 2.0))
    assert batch.weights.tolist() == [0.5, 2.0, 0.5, 0.0]


def test_table_rows_are_scaled_and_never_augmented() -> None:
    rows = np.array([[1.0, 10.0], [3.0, 30.0]])
    input = TableInput(columns=("a", "b"), center=(2.0, 20.0), spread=(1.0, 5.0))
    none = np.zeros(0, np.int64)
    data = LocalData(rows, np.array([0, 1], np.int32), ("no", "yes"), np.arange(2), none, none, 0)
    wanted = spec(2, input=input, augmentation=Augmentation(brightness=1.0, horizontal_flip=True))
    made = list(batches(data, np.arange(2), wanted, rng=np.random.default_rng(0), augment=True))
    assert sorted(made[0].inputs.tolist()) == [[-1.0, -2.0], [1.0, 2.0]]


def test_augmentation_changes_training_batches_only() -> None:
    wanted = spec(4, augmentation=Augmentation(brightness=0.5))
    plain = np.concatenate([batch.inputs for batch in batches(local(), np.arange(4, 8), wanted)])
    rng = np.random.default_rng(0)
    changed = np.concatenate(
        [batch.inputs for batch in batches(local(), np.arange(4, 8), wanted, rng=rng, augment=True)]
    )
    assert sorted(plain[:, 0, 0, 0]) != sorted(changed[:, 0, 0, 0])


@pytest.mark.parametrize(
    "other",
    [spec(input=ImageInput(5, 4)), spec(classes=("yes", "no")), spec(input=ImageInput(4, 4, channels=3))],
)
def test_data_of_another_model_is_refused(other: ModelSpec) -> None:
    with pytest.raises(DataError, match="was loaded for another model"):
        batches(local(), np.arange(4), other)
    with pytest.raises(DataError, match="needs a random generator"):
        batches(local(), np.arange(4), spec(), augment=True)


# ---- augmentation ----

BIG = np.random.default_rng(3).integers(0, 255, (6, 16, 16, 1), np.uint8)


def test_no_augmentation_is_no_change() -> None:
    assert augment_pictures(BIG, Augmentation(), np.random.default_rng(0)) is BIG


def test_flips_are_exact_and_happen_half_the_time() -> None:
    many = np.broadcast_to(BIG[:1], (400, 16, 16, 1))
    for how, flipped in (
        (Augmentation(horizontal_flip=True), BIG[0][:, ::-1]),
        (Augmentation(vertical_flip=True), BIG[0][::-1]),
    ):
        out = augment_pictures(many, how, np.random.default_rng(0))
        kinds = Counter(
            "kept" if (p == BIG[0]).all() else "flipped" if (p == flipped).all() else "?" for p in out
        )
        assert set(kinds) == {"kept", "flipped"}
        assert 160 <= kinds["flipped"] <= 240  # 4 standard deviations


def test_shifts_move_by_whole_pictures_and_fill_with_black() -> None:
    white = np.full((300, 16, 16, 1), 255, np.uint8)
    out = augment_pictures(white, Augmentation(shift=0.25), np.random.default_rng(0))
    shares = (out > 127).mean(axis=(1, 2, 3))
    assert shares.min() >= 0.75**2 - 0.05
    assert shares.max() > 0.95
    assert 0.7 < shares.mean() < 0.8  # E[(1 - |s|)]^2 with s uniform within 0.25 is 0.766


def test_a_shift_keeps_the_direction_it_drew() -> None:
    dot = np.zeros((200, 17, 17, 1), np.uint8)
    dot[:, 8, 8] = 255
    out = augment_pictures(dot, Augmentation(shift=0.3), np.random.default_rng(1)).astype(float)[..., 0]
    grid = np.arange(17)
    mass = out.sum(axis=(1, 2))
    rows = (out.sum(axis=2) @ grid) / mass - 8
    columns = (out.sum(axis=1) @ grid) / mass - 8
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.25  # down and across are drawn apart
    for moved in (rows, columns):
        assert -5.2 < moved.min() < -3.5
        assert 3.5 < moved.max() < 5.2


def test_rotation_turns_about_the_centre() -> None:
    bar = np.zeros((1, 33, 33, 1), np.uint8)
    bar[:, 15:18, 4:29] = 255

    class Extreme(np.random.Generator):
        """Draws the largest angle."""

        def random(self, size: tuple[int, ...]) -> np.ndarray:  # type: ignore[override]
            return np.full(size, 1.0)

    extreme = Extreme(np.random.PCG64(0))
    upright = augment_pictures(bar, Augmentation(rotation_degrees=90.0), extreme)
    assert np.abs(upright[0].astype(int) - bar[0].transpose(1, 0, 2)).max() <= 1


def test_brightness_scales_and_clips() -> None:
    grey = np.full((500, 4, 4, 1), 100, np.uint8)
    levels = augment_pictures(grey, Augmentation(brightness=0.3), np.random.default_rng(0))[:, 0, 0, 0]
    assert 70 <= levels.min() < 75
    assert 125 < levels.max() <= 130
    bright = augment_pictures(
        np.full((50, 4, 4, 1), 250, np.uint8), Augmentation(brightness=1.0), np.random.default_rng(0)
    )
    assert bright.max() == 255


def test_colours_move_together() -> None:
    colour = np.repeat(BIG, 3, axis=3)
    how = Augmentation(horizontal_flip=True, rotation_degrees=20.0, shift=0.1, brightness=0.2)
    out = augment_pictures(colour, how, np.random.default_rng(0))
    np.testing.assert_array_equal(out[..., 0], out[..., 1])
    alone = augment_pictures(BIG, how, np.random.default_rng(0))
    assert np.abs(out[..., :1].astype(int) - alone).max() <= 1


# ---- memory ----


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_iterating_a_mapped_set_does_not_bring_it_into_memory(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from compression.spec import ImageInput, ModelSpec, TensorSpec
        from edge_client.data import DataSource, batches, load_data

        def resident_mb():
            lines = Path("/proc/self/status").read_text().splitlines()
            return max(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

        folder = Path(sys.argv[1])
        tensors = (TensorSpec("w", (1,)),)
        spec = ModelSpec(name="m", input=ImageInput(64, 64), classes=("0", "1"), tensors=tensors)
        before = resident_mb()
        source = DataSource("npz", folder / "big.npz")
        how = {"validation_fraction": 0.2, "seed": 0, "cache": folder / "cache"}
        data = load_data(source, spec.input, spec.classes, **how)
        rng = np.random.default_rng(0)
        total = sum(float(batch.inputs.sum()) for batch in batches(data, data.train_index, spec, rng=rng))
        assert total > 0
        print(resident_mb() - before)
        """
    )
    pictures = np.random.default_rng(0).integers(0, 255, (15_000, 64, 64), np.uint8)  # 61 MB
    np.savez(tmp_path / "big.npz", images=pictures, labels=np.arange(15_000) % 2)
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], check=True, capture_output=True, text=True, timeout=120
    )
    assert float(done.stdout) < 20
