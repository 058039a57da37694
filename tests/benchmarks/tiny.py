"""A TFLite file that takes microseconds."""

from __future__ import annotations

from pathlib import Path

from compression.models.export import export_model
from tests.compression.test_models_export import make_model


def tiny_model(path: Path) -> Path:
    """Write one."""
    path.write_bytes(export_model(make_model(), classes=2, recipe="float32").tflite)
    return path
