"""Folders of pictures by class, and lists of paths and labels."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compression.spec import ImageInput
from edge_client.data import DataError, DataSource, class_names, load_data, summarise
from edge_client.data.files import open_folder, open_list

GREY = ImageInput(height=8, width=8)


def picture(file: Path, level: int = 100, kind: str = "PNG") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (10, 10), level).save(file, kind)
    return file


def classes_of(folder: Path, **counts: int) -> Path:
    for label, count in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(folder / label / f"scan {number}.png", level=10 * number)
    return folder


def load(source: DataSource, classes: tuple[str, ...] = ("no", "yes"), fraction: float = 0.0):
    return load_data(source, GREY, classes, validation_fraction=fraction, seed=1)


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    source = DataSource("folder", classes_of(tmp_path, yes=3, no=2))
    data = load(source)
    assert class_names(source) == ("no", "yes")
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.inputs[:, 0, 0, 0].tolist() == [0, 10, 0, 10, 20]
    assert data.counts(data.train_index) == {"no": 2, "yes": 3}


def test_notes_hidden_files_and_odd_extensions(tmp_path: Path) -> None:
    classes_of(tmp_path, yes=2, no=2)
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / "no" / "notes.txt").write_text("notes")
    (tmp_path / "no" / ".DS_Store").write_bytes(b"\x89PNG")
    (tmp_path / ".git").mkdir()
    picture(tmp_path / "no" / "scan.dat")  # a picture by its first bytes
    picture(tmp_path / "no" / "patient 7" / "deep.bmp", kind="PNG")  # below a folder of its own, PNG inside
    summary = summarise(DataSource("folder", tmp_path), validation_fraction=0, seed=1)
    assert summary.counts == {"no": 4, "yes": 2}
    assert summary.skipped == 0


def test_corrupt_files_are_skipped_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classes_of(tmp_path, yes=4, no=4)
    (tmp_path / "yes" / "empty.jpg").write_bytes(b"")
    (tmp_path / "no" / "broken.png").write_bytes(b"\x89PNG nothing")
    (tmp_path / "no" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    source = DataSource("folder", tmp_path)
    with caplog.at_level(logging.WARNING):
        data = load(source, fraction=0.25)
    assert data.skipped == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "skipped 3 of 11 pictures" in caplog.text
    assert "broken.png" in caplog.text
    used = np.concatenate([data.train_index, data.validation_index])
    assert data.counts(used) == {"no": 4, "yes": 4}
    summary = summarise(source, validation_fraction=0.25, seed=1)
    assert summary.counts == data.counts(data.train_index)
    assert (summary.validation_examples, summary.skipped) == (2, 3)


def test_a_hospital_keeps_its_own_split(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        classes_of(tmp_path / part, yes=count, no=count)
    data = load(DataSource("folder", tmp_path), fraction=0.5)
    assert [len(data.train_index), len(data.validation_index), len(data.test_index)] == [12, 4, 6]
    assert data.counts(data.test_index) == {"no": 3, "yes": 3}


def test_a_hospital_without_validation_folder_draws_one_from_training(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("test", 3)):
        classes_of(tmp_path / part, yes=count, no=count)
    data = load(DataSource("folder", tmp_path), fraction=0.2)
    assert data.counts(data.validation_index) == {"no": 2, "yes": 2}
    assert len(data.train_index) == 16
    assert len(data.test_index) == 6


def test_hospitals_side_by_side_are_not_taken_for_classes(tmp_path: Path) -> None:
    for hospital in ("hospital_1", "hospital_2"):
        classes_of(tmp_path / hospital / "train", yes=2, no=2)
    with pytest.raises(DataError, match=r"holds several data sets: use .*hospital_1"):
        open_folder(tmp_path)


def test_an_empty_class_folder_is_a_class(tmp_path: Path) -> None:
    source = DataSource("folder", classes_of(tmp_path, yes=3, no=0))
    assert summarise(source, validation_fraction=0, seed=1).counts == {"no": 0, "yes": 3}
    assert load(source).labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({}, "has no class folders"),
        ({"yes": 0, "no": 0}, "holds no pictures"),
        ({"yes": 5}, "has one class only, 'yes'"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, counts: dict[str, int], told: str) -> None:
    classes_of(tmp_path, **counts)
    with pytest.raises(DataError, match=told) as caught:
        summarise(DataSource("folder", tmp_path), validation_fraction=0, seed=1)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        open_folder(tmp_path / "nowhere")


def test_too_few_examples(tmp_path: Path) -> None:
    source = DataSource("folder", classes_of(tmp_path, yes=1, no=0))
    with pytest.raises(DataError, match="too few examples: 1 can be used"):
        load(source)


def test_only_corrupt_pictures(tmp_path: Path) -> None:
    classes_of(tmp_path, yes=0, no=0)
    (tmp_path / "yes" / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="too few examples: 0"):
        load(DataSource("folder", tmp_path))


def test_a_label_outside_the_classes_names_the_file(tmp_path: Path) -> None:
    source = DataSource("folder", classes_of(tmp_path, yes=2, no=2, maybe=1))
    with pytest.raises(
        DataError, match=r"maybe/scan 0\.png: label 'maybe' is not one of the classes no, yes"
    ):
        load(source)


def listing(folder: Path, text: str) -> DataSource:
    for number in range(4):
        picture(folder / f"{number}.png", level=number)
    (folder / "list.csv").write_text(text)
    return DataSource("csv", folder / "list.csv")


def test_a_list_with_a_header(tmp_path: Path) -> None:
    text = "\ufeffLabel,File,split\nyes,0.png,train\nno,1.png,val\n\nno,2.png,train\nyes,3.png,test\n"
    data = load(listing(tmp_path, text))
    assert data.labels.tolist() == [1, 0, 0, 1]
    assert data.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert [i.tolist() for i in (data.train_index, data.validation_index, data.test_index)] == [
        [0, 2],
        [1],
        [3],
    ]


def test_a_list_without_a_header_and_with_absolute_paths(tmp_path: Path) -> None:
    data = load(listing(tmp_path, f"0.png,no\n{tmp_path / '1.png'},yes\n"))
    assert data.labels.tolist() == [0, 1]
    assert data.skipped == 0


def test_files_that_a_list_misses_are_skipped(tmp_path: Path) -> None:
    data = load(listing(tmp_path, "path,label\n0.png,no\nnowhere.png,yes\n2.png,yes\n"))
    assert data.skipped == 1
    assert data.train_index.tolist() == [0, 2]


def test_a_list_with_a_label_column_of_another_name(tmp_path: Path) -> None:
    source = listing(tmp_path, "path,finding\n0.png,no\n1.png,yes\n")
    assert class_names(DataSource("csv", source.path, label_column="Finding")) == ("no", "yes")
    with pytest.raises(DataError, match="no column label or diagnosis"):
        class_names(source)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("path,label\n", "lists no pictures"),
        ("path,label\n0.png\n", "row 2: expected a path and a label"),
        ("0.png,no\n1.png,\n", "row 2: expected a path and a label"),
        ("path,label,split\n0.png,no,sometimes\n", "row 2: split 'sometimes' is none of"),
        ("path,label\n" + '"' + "x" * 200_000 + '",no\n', "cannot be read as a CSV"),
        (f"path,label\n0.png,{'x' * 200}\n", "must have 1 to 128 characters"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        open_list(listing(tmp_path, text).path)


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    file = picture(tmp_path / "list.csv")
    for path in (file, tmp_path / "nowhere.csv"):
        with pytest.raises(DataError, match="cannot be read as a CSV"):
            open_list(path)


def test_whole_numbers_are_ordered_by_value(tmp_path: Path) -> None:
    assert class_names(listing(tmp_path, "0.png,10\n1.png,9\n2.png,2\n")) == ("2", "9", "10")


def test_real_brain_scans(medical_data: Path) -> None:
    source = DataSource.parse("folder:brain-mri-tumor", base=medical_data)
    data = load(source, fraction=0.2)
    summary = summarise(source, validation_fraction=0.2, seed=1)
    assert len(data.labels) == 228
    assert data.skipped == summary.skipped == 0
    assert data.counts(np.arange(228)) == {"no": 87, "yes": 141}
    assert summary.counts == data.counts(data.train_index) == {"no": 70, "yes": 113}
    assert data.inputs.std() > 30  # pictures, not blanks


@pytest.mark.parametrize("text", ["folder", "folder:", "zip:x", "", ":x"])
def test_sources_that_cannot_be_parsed(text: str) -> None:
    with pytest.raises(DataError, match="expected one of folder:PATH, csv:PATH, npz:PATH, table:PATH"):
        DataSource.parse(text)


def test_sources_give_their_text_back(tmp_path: Path) -> None:
    assert str(DataSource.parse("table:/data/a:b.csv")) == "table:/data/a:b.csv"
    relative = DataSource.parse("npz:scans.npz", base=tmp_path)
    assert relative.path == tmp_path / "scans.npz"
    assert DataSource.parse(str(relative)) == relative
    assert DataSource.parse("folder:/data", base=tmp_path).path == Path("/data")
