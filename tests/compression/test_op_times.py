"""Ops cut out of a file: one after the other they are the model; and what timing them says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.models.errors import TFLiteFileError
from compression.models.export import export_model
from compression.models.tflite_cut import cut_ops, signature_names
from compression.op_times import METHOD, OpTime, OpTimes, op_times_text, time_ops
from compression.timing_process import TimingError, timed_by
from edge_client.runtime import make_interpreter
from tests.compression.test_models_export import SHAPE, make_model

EXAMPLES = np.random.default_rng(0).random((16, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    model = make_model()
    recipes: Any = ("float32", "float16", "dynamic", "int8")
    return {
        name: export_model(model, classes=2, recipe=name, calibration=EXAMPLES).tflite for name in recipes
    }


@pytest.mark.parametrize("recipe", ["float32", "float16", "dynamic", "int8"])
def test_the_ops_one_after_the_other_are_the_model(files: dict[str, bytes], recipe: str) -> None:
    whole = make_interpreter(files[recipe])
    [entry], ends = whole.get_input_details(), whole.get_output_details()
    values = {entry["index"]: EXAMPLES[:1]}
    whole.set_tensor(entry["index"], EXAMPLES[:1])
    whole.invoke()
    for op in cut_ops(files[recipe]):
        assert op.count == 1 and op.why_not == ""
        alone = make_interpreter(op.file)
        for detail in alone.get_input_details():
            alone.set_tensor(detail["index"], values[detail["index"]])
        alone.invoke()
        values |= {each["index"]: alone.get_tensor(each["index"]) for each in alone.get_output_details()}
    for end in ends:
        found, expected = values[end["index"]], whole.get_tensor(end["index"])
        np.testing.assert_allclose(found, expected, atol=1e-6 if recipe != "int8" else 1 / 256)


def test_equal_ops_are_one_and_those_with_other_options_are_not() -> None:
    import tensorflow as tf
    import tf_keras
    from tf_keras import layers

    dense = [layers.Dense(8, activation=name) for name in ("relu", "relu", None, "relu")]
    model = tf_keras.Sequential([layers.Input((8,), batch_size=1), *dense])
    counts = [op.count for op in cut_ops(tf.lite.TFLiteConverter.from_keras_model(model).convert())]
    assert sorted(counts) == [1, 3]


def test_a_signature_that_is_not_there_and_a_damaged_file_are_one_error(files: dict[str, bytes]) -> None:
    data = files["float32"]
    assert len(cut_ops(data, signature_names(data)[0])) == len(cut_ops(data))
    with pytest.raises(TFLiteFileError, match="no signature 'train', but "):
        cut_ops(data, "train")
    with pytest.raises(TFLiteFileError):
        cut_ops(data[: len(data) // 2])
    rng = np.random.default_rng(5)
    for _ in range(100):
        damaged = bytearray(data)
        damaged[rng.integers(8, len(data))] ^= int(rng.integers(1, 256))
        try:
            cut_ops(bytes(damaged))
        except TFLiteFileError:
            continue


def test_the_times_of_the_ops_beside_the_whole(files: dict[str, bytes]) -> None:
    times = time_ops("a model", files["float32"], threads=1, xnnpack=False)
    assert {"CONV_2D", "MAX_POOL_2D", "FULLY_CONNECTED"} <= {op.op for op in times.ops}
    assert times.left_out == () and min(op.ms for op in times.ops) > 0
    totals = [op.total_ms for op in times.ops]
    assert totals == sorted(totals, reverse=True) and sum(totals) == pytest.approx(times.sum_ms)
    assert times.whole_ms is not None and times.whole_ms > 0
    text = op_times_text(times)
    assert METHOD in text and "% of the whole's" in text and "no XNNPACK" in text and "not timed" not in text


def test_what_cannot_be_timed_is_named() -> None:
    times = OpTimes("m", "r", "x", 2, True, None, 0.0, (), ("WHILE 1 -> 1: it runs other graphs",))
    text = op_times_text(times)
    assert "2 threads" in text and "of the whole" not in text
    assert text.endswith("not timed:\n  WHILE 1 -> 1: it runs other graphs")


def test_a_process_that_crashes_or_never_starts_is_one_line(tmp_path: Path) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    with pytest.raises(TimingError, match="SIGSEGV ended the runtime"):
        timed_by("anything", [], python=str(crashing))
    with pytest.raises(TimingError, match="cannot time anything"):
        timed_by("anything", [], python=str(tmp_path / "absent"))
    with pytest.raises(TimingError, match="no TFLite runtime here"):
        timed_by("compression.op_timer", [__file__, "1", "on"], runtime="abacus")


@pytest.mark.parametrize(("whole_ms", "little"), [(0.001, True), (0.009, False)])
def test_where_the_calls_are_dearer_than_the_ops_the_shares_are_not_to_be_trusted(
    whole_ms: float, little: bool
) -> None:
    op = OpTime("ADD", "ADD 1x8", 1, 0.01)
    text = op_times_text(OpTimes("a.tflite", "r", "m", 1, True, whole_ms, 0.01, (op,), ()))
    assert ("the shares mean little" in text) is little
