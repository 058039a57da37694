"""TFLite files that are to be measured, read and checked."""

from __future__ import annotations

from pathlib import Path

from benchmarks.errors import BenchmarkError
from compression.models.tflite_file import TFLiteFile
from edge_client.measure.errors import MeasureError
from edge_client.measure.model import check_model

BUNDLE_MAGIC = b"BRTB"


def read_model(path: Path) -> tuple[bytes, TFLiteFile]:
    """Read and check a file before any runtime sees it.

    Raises:
        BenchmarkError: it is missing, broken, no model, or needs TensorFlow's ops, which are named.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise BenchmarkError(f"{path}: {exc.strerror or exc}") from exc
    if data[:4] == BUNDLE_MAGIC:
        raise BenchmarkError(f"{path} is a training bundle: bramble-bench train --bundle {path}")
    try:
        return data, check_model(data)
    except MeasureError as exc:
        raise BenchmarkError(f"{path}: {exc}") from exc
