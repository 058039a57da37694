"""Sizes against what the file holds, counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compression.models.errors import TFLiteFileError
from compression.models.export import export_model
from compression.size_report import SizeReport, size_report, zipped_bytes
from compression.text_table import bytes_text, text_table


def make_model() -> Any:
    """Dense 40 x 30 with half of its kernel zero, then 30 x 1."""
    import tf_keras
    from tf_keras import layers

    model = tf_keras.Sequential(
        [layers.Input((40,)), layers.Dense(30, name="wide"), layers.Dense(1, name="last")], name="net"
    )
    kernel = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    kernel[::2] = 0
    last = np.linspace(0.5, 1.5, 30, dtype=np.float32)[:, None]
    model.get_layer("wide").set_weights([kernel, np.ones(30, np.float32)])
    model.get_layer("last").set_weights([last, np.ones(1, np.float32)])
    return model


@pytest.fixture(scope="module")
def reports() -> dict[str, SizeReport]:
    model = make_model()
    examples = np.random.default_rng(1).normal(size=(16, 40)).astype(np.float32)
    return {
        recipe: size_report(export_model(model, classes=2, recipe=recipe, calibration=examples).tflite)
        for recipe in ("float32", "int8")
    }


def test_float32_bytes_are_counted_by_layer(reports: dict[str, SizeReport]) -> None:
    layers = {layer.name: layer for layer in reports["float32"].layers}
    assert layers["wide"].bytes == 4 * (40 * 30 + 30)
    assert layers["last"].elements == 30 + 1
    assert layers["wide"].type == "float32" and layers["wide"].op == "FULLY_CONNECTED"
    assert reports["float32"].constant_bytes == reports["float32"].float32_bytes


def test_zeros_are_counted(reports: dict[str, SizeReport]) -> None:
    layers = {layer.name: layer for layer in reports["float32"].layers}
    assert layers["wide"].zeros == 600
    assert reports["float32"].sparsity == pytest.approx(600 / reports["float32"].elements)
    assert {layer.name: layer for layer in reports["int8"].layers}["wide"].zeros >= 600


def test_int8_takes_a_quarter_of_the_weights_bytes(reports: dict[str, SizeReport]) -> None:
    wide = {layer.name: layer for layer in reports["int8"].layers}["wide"]
    assert wide.type == "int8"
    assert wide.bytes == 40 * 30 + 4 * 30  # the bias is int32
    assert wide.float32_bytes == 4 * (40 * 30 + 30)
    assert reports["int8"].calibration == "full-integer"


def test_zipped_is_what_a_zip_archive_takes() -> None:
    data = bytes(100_000)
    size = zipped_bytes(data)
    assert 100 < size < 500
    noise = np.random.default_rng(0).bytes(10_000)
    assert zipped_bytes(noise) > 10_000


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(TFLiteFileError):
        size_report(b"PK\x03\x04")


def test_text_is_aligned() -> None:
    assert text_table(["file", "size"], [["a", "1 B"], ["longer", "1000 B"]]) == (
        "file      size\na          1 B\nlonger  1000 B"
    )
    assert text_table(["of", "words"], [["a", "b"], ["long", "c"]], left=(0, 1)) == (
        "of    words\na     b\nlong  c"
    )
    assert [bytes_text(count) for count in (512, 77_288, 1_200_000)] == ["512 B", "77.3 kB", "1.2 MB"]
