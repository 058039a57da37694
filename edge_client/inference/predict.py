"""What ``bramble-edge predict FILE|DIR|-`` does: one row for each picture, or for each row of a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from compression.spec import ImageInput, TableInput
from edge_client.data import DataError, preprocess
from edge_client.data.files import SUFFIXES
from edge_client.data.table import DELIMITERS
from edge_client.inference.answering import Answer
from edge_client.inference.installed import ActiveModel
from edge_client.inference.predictor import FloatArray, PredictionError

STDIN = Path("-")
MAX_STDIN_BYTES = 1 << 26


class Answers(Protocol):
    """A model to be asked: `edge_client.inference.live.LiveModel`, or an `Answerer`."""

    @property
    def model(self) -> ActiveModel:
        """What answers."""

    def answer(self, example: FloatArray) -> Answer:
        """Answer for one preprocessed input."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer, or why there is none.

    Attributes:
        file: path, and for a table ``path:row`` with the header as row 1, as a spreadsheet counts.
        label: the likeliest class; None where `error` says why there is none.
        probability: of that class, calibrated.
        probabilities: of every class, by name.
        model_version: of the model that answered.
        latency_ms: of the model alone; reading and scaling the picture not counted.
        error: why this file has no answer.
        refused: the input is unlike the training data; it has no label either, and that is an answer too.
        unlike: its distance from the training data, where 1 is the largest that is answered; None where
            the release says nothing of its training data.
    """

    file: str
    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    model_version: int
    latency_ms: float | None
    error: str | None = None
    refused: bool = False
    unlike: float | None = None


def predict_files(model: Answers, paths: Sequence[Path], stdin: bytes = b"") -> Iterator[Prediction]:
    """Answer for files, and for the pictures or tables in folders and their subfolders, by name.

    A file that cannot be read gives a row that says so, and the next one is tried.

    Args:
        model: to be asked.
        paths: files and folders; ``-`` is what came on standard input.
        stdin: what that was.

    Raises:
        DataError: a path does not exist, or a folder holds nothing this model takes.
    """
    spec = model.model.spec
    files = [
        file for path in paths for file in _files(path, spec.raw_input)
    ]  # all good before the first answer
    return (row for file in files for row in _of_file(model, file, stdin if file == STDIN else None))


def predict_bytes(model: Answers, name: str, data: bytes) -> Iterator[Prediction]:
    """Answer for a picture or a table that is no file, by any name."""
    return _of_file(model, Path(name), data)


def _of_file(model: Answers, file: Path, data: bytes | None) -> Iterator[Prediction]:
    input = model.model.spec.raw_input
    examples = (
        _picture(file, input, data) if isinstance(input, ImageInput) else _table_rows(file, input, data)
    )
    return (_answer(model, name, example) for name, example in examples)


def _answer(model: Answers, name: str, example: FloatArray | str) -> Prediction:
    version, classes = model.model.version, model.model.spec.classes
    if isinstance(example, str):
        return Prediction(name, None, None, {}, version, None, example)
    try:
        answer = model.answer(example)
    except PredictionError as exc:
        return Prediction(name, None, None, {}, version, None, str(exc))
    values, latency_ms = answer.probabilities, answer.latency_ms
    if answer.refused:
        return Prediction(name, None, None, {}, version, latency_ms, refused=True, unlike=answer.unlike)
    best = int(values.argmax())
    probabilities = dict(zip(classes, map(float, values), strict=True))
    label, probability = classes[best], float(values[best])
    return Prediction(name, label, probability, probabilities, version, latency_ms, unlike=answer.unlike)


def _files(path: Path, input: ImageInput | TableInput) -> list[Path]:
    if path == STDIN:
        return [path]
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_dir():
        return [path]
    image = isinstance(input, ImageInput)
    suffixes = SUFFIXES if image else frozenset({".csv"})
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    if not found:
        raise DataError(
            f"{path} holds no {'pictures' if image else 'CSV tables'}: give a file, or another folder"
        )
    return found


def _picture(file: Path, input: ImageInput, data: bytes | None) -> Iterator[tuple[str, FloatArray | str]]:
    try:
        yield str(file), preprocess(file if data is None else data, input)
    except (DataError, OSError) as exc:
        yield str(file), str(exc)


def _table_rows(file: Path, input: TableInput, data: bytes | None) -> Iterator[tuple[str, FloatArray | str]]:
    """Rows by column name; no label column is asked for, and other columns are passed over."""
    try:
        with _text(file, data) as stream:
            header = stream.readline()
            stream.seek(0)
            delimiter = max(DELIMITERS, key=header.count)
            for number, row in enumerate(csv.DictReader(stream, delimiter=delimiter), start=2):
                yield f"{file}:{number}", _table_row(row, input)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        yield str(file), f"cannot be read as a table: {exc}"


def _text(file: Path, data: bytes | None) -> TextIO:
    if data is None:
        return file.open(newline="", encoding="utf-8-sig")
    return io.StringIO(data.decode("utf-8-sig"), newline="")


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
