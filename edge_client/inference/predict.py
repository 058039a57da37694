"""What ``bramble-edge predict FILE|DIR`` does: one row for each picture, or for each row of a table."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compression.spec import ImageInput, TableInput
from edge_client.data import DataError, preprocess
from edge_client.data.files import SUFFIXES
from edge_client.data.table import DELIMITERS
from edge_client.inference.predictor import FloatArray, Predictor
from edge_client.inference.slots import ActiveModel


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer, or why there is none.

    Attributes:
        file: path, and for a table ``path:row`` with the header as row 1, as a spreadsheet counts.
        label: the likeliest class; None where `error` says why there is none.
        probability: of that class.
        probabilities: of every class, by name.
        model_version: of the model that answered.
        latency_ms: of the model alone; reading and scaling the picture not counted.
        error: why this file has no answer.
    """

    file: str
    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    model_version: int
    latency_ms: float | None
    error: str | None = None


def predict_files(model: ActiveModel, paths: Sequence[Path], *, threads: int = 1) -> Iterator[Prediction]:
    """Answer for files, and for the pictures or tables in folders and their subfolders, by name.

    A file that cannot be read gives a row that says so, and the next one is tried.

    Raises:
        DataError: a path does not exist, or a folder holds nothing this model takes.
        PredictionError: the model cannot be run here.
    """
    predictor = Predictor(model.tflite, model.spec, threads=threads)
    files = [
        file for path in paths for file in _files(path, model)
    ]  # all paths are good before the first answer
    return _predictions(model, predictor, files)


def _predictions(model: ActiveModel, predictor: Predictor, files: Sequence[Path]) -> Iterator[Prediction]:
    for file in files:
        examples = (
            _picture(file, model.spec.input)
            if isinstance(model.spec.input, ImageInput)
            else _table_rows(file, model.spec.input)
        )
        for name, example in examples:
            yield _answer(model, predictor, name, example)


def _answer(model: ActiveModel, predictor: Predictor, name: str, example: FloatArray | str) -> Prediction:
    if isinstance(example, str):
        return Prediction(name, None, None, {}, model.version, None, example)
    started = time.perf_counter()
    values = predictor.predict_one(example)
    latency_ms = 1e3 * (time.perf_counter() - started)
    best = int(values.argmax())
    probabilities = dict(zip(model.spec.classes, map(float, values), strict=True))
    return Prediction(
        name, model.spec.classes[best], float(values[best]), probabilities, model.version, latency_ms
    )


def _files(path: Path, model: ActiveModel) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_dir():
        return [path]
    image = isinstance(model.spec.input, ImageInput)
    suffixes = SUFFIXES if image else frozenset({".csv"})
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    if not found:
        raise DataError(
            f"{path} holds no {'pictures' if image else 'CSV tables'}: give a file, or another folder"
        )
    return found


def _picture(file: Path, input: ImageInput) -> Iterator[tuple[str, FloatArray | str]]:
    try:
        yield str(file), preprocess(file, input)
    except (DataError, OSError) as exc:
        yield str(file), str(exc)


def _table_rows(file: Path, input: TableInput) -> Iterator[tuple[str, FloatArray | str]]:
    """Rows by column name; no label column is asked for, and other columns are passed over."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header = stream.readline()
            stream.seek(0)
            delimiter = max(DELIMITERS, key=header.count)
            for number, row in enumerate(csv.DictReader(stream, delimiter=delimiter), start=2):
                yield f"{file}:{number}", _table_row(row, input)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        yield str(file), f"cannot be read as a table: {exc}"


def _table_row(row: dict[str | None, str | None], input: TableInput) -> FloatArray | str:
    values: dict[str, float] = {}
    for key, text in row.items():
        name = (key or "").strip()
        if name not in input.columns:
            continue
        try:
            values[name] = float(text or "")
        except (TypeError, ValueError):
            return f"column {name!r} holds {str(text)[:40]!r}, not a number"
    try:
        return preprocess(values, input)
    except DataError as exc:
        return str(exc)
