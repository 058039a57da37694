"""Pictures as arrays in npz files, read in blocks and never unpickled."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.spec import ImageInput
from edge_client.data import DataError, DataSource, class_names, load_data, summarise
from edge_client.data import arrays as arrays_module

GREY = ImageInput(height=4, width=4)
COLOUR = ImageInput(height=4, width=4, channels=3)
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 255, (6, 4, 4), np.uint8)
LABELS = np.array([0, 1, 0, 1, 1, 0])


def npz(folder: Path, **arrays: Any) -> DataSource:
    np.savez_compressed(folder / "scans.npz", **arrays)
    return DataSource("npz", folder / "scans.npz")


def load(source: DataSource, input: ImageInput = GREY, classes: tuple[str, ...] = ("0", "1")):
    return load_data(source, input, classes, validation_fraction=0, seed=0)


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y")])
def test_plain_arrays(tmp_path: Path, names: tuple[str, str]) -> None:
    data = load(npz(tmp_path, **{names[0]: PICTURES, names[1]: LABELS}))
    np.testing.assert_array_equal(data.inputs[..., 0], PICTURES)
    np.testing.assert_array_equal(data.labels, LABELS)


def test_medmnist_names_and_splits(tmp_path: Path) -> None:
    source = npz(
        tmp_path,
        train_images=PICTURES,
        train_labels=LABELS[:, None].astype(np.uint8),
        val_images=PICTURES[:2],
        val_labels=LABELS[:2, None],
        test_images=PICTURES[2:5],
        test_labels=LABELS[2:5, None],
    )
    data = load(source)
    assert [len(data.train_index), len(data.validation_index), len(data.test_index)] == [6, 2, 3]
    np.testing.assert_array_equal(data.inputs[data.test_index][..., 0], PICTURES[2:5])
    summary = summarise(source, validation_fraction=0.5, seed=0)
    assert (summary.counts, summary.validation_examples) == ({"0": 3, "1": 3}, 2)


def test_blocks_come_out_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays_module, "BLOCK_BYTES", 40)  # two pictures and a bit
    data = load(npz(tmp_path, images=PICTURES, labels=LABELS))
    np.testing.assert_array_equal(data.inputs[..., 0], PICTURES)


def test_classes_may_be_named(tmp_path: Path) -> None:
    source = npz(tmp_path, images=PICTURES, labels=LABELS, classes=np.array(["normal", "ill", "unseen"]))
    assert class_names(source) == ("ill", "normal", "unseen")
    assert load(source, classes=("normal", "ill")).labels.tolist() == LABELS.tolist()


def test_labels_may_be_text(tmp_path: Path) -> None:
    for labels in (np.array(["no", "yes"])[LABELS], np.array([b"no", b"yes"])[LABELS]):
        assert load(npz(tmp_path, images=PICTURES, labels=labels), classes=("no", "yes")).labels.sum() == 3


def test_labels_may_be_booleans_or_negative(tmp_path: Path) -> None:
    assert class_names(npz(tmp_path, images=PICTURES, labels=LABELS.astype(bool))) == ("0", "1")
    assert class_names(npz(tmp_path, images=PICTURES, labels=2 * LABELS - 1)) == ("-1", "1")


def test_colour_first_or_last(tmp_path: Path) -> None:
    last = RNG.integers(0, 255, (6, 4, 4, 3), np.uint8)
    for pictures in (last, np.ascontiguousarray(last.transpose(0, 3, 1, 2))):
        data = load(npz(tmp_path, images=pictures, labels=LABELS), COLOUR)
        np.testing.assert_array_equal(data.inputs, last)


def test_other_sizes_and_depths_are_brought_to_the_input(tmp_path: Path) -> None:
    deep = np.repeat(np.repeat(PICTURES.astype(np.uint16) << 8, 3, axis=1), 3, axis=2)
    data = load(npz(tmp_path, images=deep, labels=LABELS), ImageInput(height=12, width=12))
    np.testing.assert_array_equal(data.inputs[..., 0], deep >> 8)
    assert load(npz(tmp_path, images=deep, labels=LABELS)).inputs.shape == (6, 4, 4, 1)
    unit = PICTURES / 255
    np.testing.assert_array_equal(load(npz(tmp_path, images=unit, labels=LABELS)).inputs[..., 0], PICTURES)


def test_depth_is_that_of_the_whole_file_not_of_each_picture(tmp_path: Path) -> None:
    pictures = np.stack([np.full((4, 4), 200, np.uint16), np.full((4, 4), 60_000, np.uint16)])
    data = load(npz(tmp_path, images=pictures, labels=LABELS[:2]))
    assert data.inputs[:, 0, 0, 0].tolist() == [200 >> 8, 60_000 >> 8]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"pictures": PICTURES}, "no train_images, images or x"),
        ({"images": PICTURES}, "labels.npy"),
        ({"images": PICTURES, "labels": LABELS[:3]}, "expected one label for each of 6"),
        ({"images": PICTURES, "labels": np.eye(6)}, "expected one label for each of 6"),
        ({"images": PICTURES, "labels": LABELS / 2}, "expected whole numbers"),
        ({"x": PICTURES.reshape(6, 16), "y": LABELS}, "save it as CSV and use table:PATH"),
        ({"images": PICTURES[..., None].repeat(2, 3), "labels": LABELS}, "expected pictures"),
        ({"images": PICTURES.astype("S1"), "labels": LABELS}, "expected pictures"),
        ({"images": PICTURES[:, :0], "labels": LABELS}, "expected 1 to"),
        ({"images": np.asfortranarray(PICTURES), "labels": LABELS}, "stored column by column"),
        ({"images": PICTURES, "labels": LABELS, "classes": np.array(["one"])}, "outside the 1 classes"),
        ({"images": PICTURES, "labels": LABELS, "classes": np.array([1, 2])}, "expected a list of names"),
        ({"images": PICTURES, "labels": LABELS, "classes": np.array(["x" * 200])}, "more than 128"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        load(npz(tmp_path, **arrays))
    assert "scans.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "scans.npz", images=PICTURES, labels=np.array([Trap()] * 6, dtype=object))
    with pytest.raises(DataError, match="holds object"):
        load(DataSource("npz", tmp_path / "scans.npz"))
    assert not (tmp_path / "sprung").exists()
    assert pickle.loads(pickle.dumps(Trap())) is None  # noqa: S301 - the trap is real
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("data", [b"", b"nothing", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_npz(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "scans.npz").write_bytes(data)
    with pytest.raises(DataError, match="cannot be read as an npz"):
        load(DataSource("npz", tmp_path / "scans.npz"))
    with pytest.raises(DataError, match="cannot be read as an npz"):
        load(DataSource("npz", tmp_path / "nowhere.npz"))


def test_arrays_that_claim_more_than_they_hold(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (9_000_000, 64, 64)}
    )
    with zipfile.ZipFile(tmp_path / "scans.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue() + bytes(5000))
        labels = io.BytesIO()
        np.save(labels, np.zeros(9_000_000, np.uint8))
        archive.writestr("labels.npy", labels.getvalue())
    source = DataSource("npz", tmp_path / "scans.npz")
    with pytest.raises(DataError, match="ends after 0 of 9000000 rows"):
        load_data(source, GREY, ("0", "1"), validation_fraction=0, seed=0, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())  # nothing half-written


def test_damaged_files_are_one_error(tmp_path: Path) -> None:
    whole = npz(tmp_path, images=PICTURES, labels=LABELS).path.read_bytes()
    file = tmp_path / "damaged.npz"
    rng = np.random.default_rng(4)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), 3):
            data[position] = rng.integers(256)
        file.write_bytes(data)
        try:
            load(DataSource("npz", file), classes=tuple(map(str, range(-5, 300))))
        except DataError:
            refused += 1
    assert refused > 200


def test_a_label_outside_the_classes_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"scans.npz, images\[1\]: label '1' is not one of the classes 0, 2"):
        load(npz(tmp_path, images=PICTURES, labels=LABELS), classes=("0", "2"))


def test_real_pneumonia_arrays(medical_data: Path) -> None:
    source = DataSource.parse("npz:pneumoniamnist/pneumoniamnist.npz", base=medical_data)
    data = load(source, ImageInput(height=28, width=28))
    assert data.counts(data.train_index) == {"0": 1214, "1": 3494}
    assert data.counts(data.validation_index) == {"0": 135, "1": 389}
    assert data.counts(data.test_index) == {"0": 234, "1": 390}
    with np.load(source.path, allow_pickle=False) as original:
        np.testing.assert_array_equal(data.inputs[data.test_index][..., 0], original["test_images"])
