"""Answers for files: pictures, folders, tables, and files that are neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_client.data import DataError
from edge_client.inference.answering import Answerer
from edge_client.inference.installed import ActiveModel
from edge_client.inference.predict import predict_files
from tests.edge_client.inference_cases import (
    SPEC,
    TABLE_SPEC,
    brightness_model,
    probability_bright,
    table_model,
)

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model() -> Answerer:
    return Answerer(ActiveModel(7, brightness_model(), SPEC))


def picture(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30), value, np.uint8)).save(path)
    return path


def test_a_picture_is_answered(model: Answerer, tmp_path: Path) -> None:
    [row] = predict_files(model, [picture(tmp_path / "scan.png", 204)])
    assert (row.file, row.label, row.model_version, row.error) == (
        str(tmp_path / "scan.png"),
        "bright",
        7,
        None,
    )
    assert row.probability == pytest.approx(probability_bright(0.8), abs=1e-4)
    assert row.probabilities["dark"] == pytest.approx(1 - probability_bright(0.8), abs=1e-4)
    assert row.latency_ms is not None and row.latency_ms > 0


def test_a_folder_is_answered_by_name_with_its_subfolders(model: Answerer, tmp_path: Path) -> None:
    picture(tmp_path / "b.png", 0)
    picture(tmp_path / "a" / "z.jpg", 255)
    (tmp_path / "notes.txt").write_text("not a picture")
    rows = list(predict_files(model, [tmp_path]))
    assert [(Path(row.file).name, row.label) for row in rows] == [("z.jpg", "bright"), ("b.png", "dark")]


def test_a_broken_picture_has_a_row_of_its_own(model: Answerer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture at all")
    picture(tmp_path / "b.png", 255)
    broken, good = predict_files(model, [tmp_path])
    assert (broken.label, broken.probability, broken.latency_ms) == (None, None, None)
    assert broken.error and "a.png" in broken.error
    assert good.label == "bright"


def test_paths_are_checked_before_the_first_answer(model: Answerer, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 0)
    with pytest.raises(DataError, match=r"missing\.png does not exist"):
        predict_files(model, [tmp_path / "a.png", tmp_path / "missing.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        predict_files(model, [tmp_path / "empty"])


def test_a_table_is_answered_row_by_row(tmp_path: Path) -> None:
    """Columns are found by name, in any order, and scaled as in training: (a - 1) / 2 + b > 0."""
    path = tmp_path / "rows.csv"
    path.write_text("id,b,a\n1,0.5,1\n2,-0.5,1\n3,,1\n4,word,1\n")
    rows = list(predict_files(Answerer(ActiveModel(3, table_model(), TABLE_SPEC)), [tmp_path]))
    assert [row.file.rpartition(":")[2] for row in rows] == ["2", "3", "4", "5"]
    assert [row.label for row in rows] == ["bright", "dark", None, None]
    assert rows[0].probability == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-5)
    assert rows[2].error == "column 'b' holds '', not a number"
    assert rows[3].error == "column 'b' holds 'word', not a number"


def test_a_table_without_a_column_says_which(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n1\n")
    [row] = predict_files(Answerer(ActiveModel(3, table_model(), TABLE_SPEC)), [path])
    assert row.error == "column 'b' is missing from the row"


def test_a_file_that_is_no_table_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n\xff\xfe,1\n")
    rows = list(predict_files(Answerer(ActiveModel(3, table_model(), TABLE_SPEC)), [path]))
    assert rows[-1].error is not None and "cannot be read as a table" in rows[-1].error


def test_predicting_needs_no_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(brightness_model())
    picture(tmp_path / "scan.png", 255)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edge_client.inference.answering import Answerer\n"
        "from edge_client.inference.predict import predict_files\n"
        "from edge_client.inference.installed import ActiveModel\n"
        "from tests.edge_client.inference_cases import SPEC\n"
        "folder = Path(sys.argv[1])\n"
        "model = Answerer(ActiveModel(1, (folder / 'model.tflite').read_bytes(), SPEC))\n"
        "print([row.label for row in predict_files(model, [folder / 'scan.png'])])\n"
        "assert not {'tensorflow', 'paho', 'broker_server'} & set(sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "['bright']\n"), ran.stderr
