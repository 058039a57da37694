"""Tables: exact numbers, and a message with file, row and column for what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compression.spec import TableInput
from edge_client.data import DataError, DataSource, class_names, load_data, preprocess, summarise
from edge_client.data.preprocessing import TABLE_LIMIT
from edge_client.data.table import read_table

GOOD = "id,radius,diagnosis,texture\n7,1.5,ill,-2e3\n8, 2 ,well,0\n9,0.1,well,3\n"
INPUT = TableInput(columns=("texture", "radius"), center=(1.0, 0.0), spread=(2.0, 0.5))


def table(folder: Path, text: str, label_column: str | None = None) -> DataSource:
    (folder / "rows.csv").write_text(text, encoding="utf-8")
    return DataSource("table", folder / "rows.csv", label_column)


def test_numbers_labels_and_columns(tmp_path: Path) -> None:
    source = table(tmp_path, GOOD)
    read = read_table(source.path)
    assert read.columns == ("radius", "texture")  # neither the label nor the identity
    np.testing.assert_array_equal(read.rows, [[1.5, -2000], [2, 0], [0.1, 3]])
    assert class_names(source) == ("ill", "well")
    summary = summarise(source, validation_fraction=0, seed=0)
    assert (summary.kind, summary.columns) == ("table", ("radius", "texture"))
    assert summary.counts == {"ill": 1, "well": 2}


def test_columns_come_in_the_order_of_the_model(tmp_path: Path) -> None:
    data = load_data(table(tmp_path, GOOD), INPUT, ("ill", "well"), validation_fraction=0, seed=0)
    np.testing.assert_array_equal(data.inputs, [[-2000, 1.5], [0, 2], [3, 0.1]])
    assert data.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("text", [GOOD.replace(",", ";"), GOOD.replace(",", "\t"), "\ufeff" + GOOD])
def test_separators_and_byte_order_mark(tmp_path: Path, text: str) -> None:
    np.testing.assert_array_equal(read_table(table(tmp_path, text).path).rows[0], [1.5, -2000])


def test_a_comma_too_many_at_the_end_of_each_line_is_harmless(tmp_path: Path) -> None:
    text = GOOD.replace("\n", ",\n")
    assert read_table(table(tmp_path, text).path).columns == ("radius", "texture")
    with pytest.raises(DataError, match="row 3: '5' stands under no column name"):
        read_table(table(tmp_path, text.replace("0,\n", "0,5\n")).path)


def test_given_splits_are_kept(tmp_path: Path) -> None:
    text = "a,label,split\n" + "".join(
        f"{i},{i % 2},{part}\n" for i, part in enumerate(("train", "train", "val", "test", "train"))
    )
    input = TableInput(columns=("a",), center=(0.0,), spread=(1.0,))
    data = load_data(table(tmp_path, text), input, ("0", "1"), validation_fraction=0.5, seed=0)
    assert [i.tolist() for i in (data.train_index, data.validation_index, data.test_index)] == [
        [0, 1, 4],
        [2],
        [3],
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("-2e3", "", "row 2, column 'texture' is missing"),
        ("-2e3", "NaN", "row 2, column 'texture' is missing"),
        ("-2e3", "?", "row 2, column 'texture' is missing"),
        ("-2e3", "high", "row 2, column 'texture' holds 'high', not a number"),
        ("-2e3", "1_000", "row 2, column 'texture' holds '1_000', not a number"),
        ("0.1", "inf", "row 4, column 'radius' holds 'inf', beyond 1e100"),
        ("0.1", "-1e200", "row 4, column 'radius' holds '-1e200', beyond 1e100"),
        ("well,0", ",0", "row 3: the label is missing"),
        ("well,0", "well", "row 3: 3 values under 4 columns"),
        ("diagnosis", "finding", "no label column"),
        ("radius", "texture", "column 'texture' occurs twice"),
        ("id,radius,diagnosis,texture", "diagnosis,id,patient_id,split", "0 columns of numbers"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, old: str, new: str, told: str) -> None:
    source = table(tmp_path, GOOD.replace(old, new))
    with pytest.raises(DataError, match=told) as caught:
        summarise(source, validation_fraction=0, seed=0)
    assert "rows.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_row_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    source = table(tmp_path, 'a,label\n1,"two\nlines"\n\nx,no\n')
    with pytest.raises(DataError, match="row 5, column 'a' holds 'x'"):
        read_table(source.path)


@pytest.mark.parametrize(
    ("text", "told"), [("", "is empty"), ("a,label\n", "no rows"), ("\n1\n", "is empty")]
)
def test_empty_tables(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_table(table(tmp_path, text).path)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"\xff\xfe\x00a")
    for name in ("rows.csv", "nowhere.csv"):
        with pytest.raises(DataError, match="cannot be read as a table"):
            read_table(tmp_path / name)


def test_a_named_label_column(tmp_path: Path) -> None:
    source = table(tmp_path, "x,label,Outcome\n1,5,ill\n2,6,well\n", label_column="outcome")
    assert class_names(source) == ("ill", "well")
    assert summarise(source, validation_fraction=0, seed=0).columns == ("x", "label")


def test_a_column_the_model_needs(tmp_path: Path) -> None:
    input = TableInput(columns=("radius", "area"), center=(0.0, 0.0), spread=(1.0, 1.0))
    with pytest.raises(DataError, match="column 'area', which the model needs, is not in the header"):
        load_data(table(tmp_path, GOOD), input, ("ill", "well"), validation_fraction=0, seed=0)


def test_columns_the_model_does_not_need_may_hold_anything(tmp_path: Path) -> None:
    text = GOOD.replace("id,", "note,").replace("7,", "seen by Dr X,")
    data = load_data(table(tmp_path, text), INPUT, ("ill", "well"), validation_fraction=0, seed=0)
    assert data.inputs.shape == (3, 2)


def test_a_label_outside_the_classes_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"rows\.csv, row 3: label 'well' is not one of the classes ill, sick"
    ):
        load_data(table(tmp_path, GOOD), INPUT, ("ill", "sick"), validation_fraction=0, seed=0)


def test_pictures_and_tables_are_not_mixed_up(tmp_path: Path) -> None:
    from compression.spec import ImageInput

    with pytest.raises(DataError, match="is a table, and the model takes pictures"):
        load_data(table(tmp_path, GOOD), ImageInput(8, 8), ("ill", "well"), validation_fraction=0, seed=0)
    with pytest.raises(DataError, match="the model takes a table"):
        load_data(DataSource("folder", tmp_path), INPUT, ("ill", "well"), validation_fraction=0, seed=0)


def test_preprocess_centres_and_spreads() -> None:
    expected = np.array([-1.0, 4.0], np.float32)
    for row in ([-1, 2], np.array([-1.0, 2.0]), {"radius": 2, "texture": -1, "more": 9}):
        example = preprocess(row, INPUT)
        assert example.dtype == np.float32
        np.testing.assert_array_equal(example, expected)


def test_preprocess_keeps_outliers_finite() -> None:
    np.testing.assert_array_equal(preprocess([1e90, -1e90], INPUT), [TABLE_LIMIT, -TABLE_LIMIT])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (b"\x89PNG", "not a picture"),
        ([1.0], "shape"),
        ([1.0, "two"], "not a number"),
        ([1.0, float("nan")], "column 'radius' is missing"),
        ({"radius": 1.0}, "column 'texture' is missing"),
    ],
)
def test_rows_that_cannot_be_used(row: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        preprocess(row, INPUT)  # type: ignore[arg-type]
