"""A device's part in calibration: its own examples through the program, and what it does not do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compression.records import RecordError, loads
from compression.spec import ModelSpec, TableInput, TensorSpec, TrainableBundle
from edge_client.calibrating import SPARE_MB, check_memory
from edge_client.config import DataConfig, EdgeConfig
from edge_client.session.address import BrokerAddress
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.state import DeviceState
from edge_client.versions import TaskError
from edge_client.wire.blobs import BlobRef
from edge_client.wire.ranges import ActivationRanges, RangesPlan
from edge_client.wire.rounds import Task
from edge_client.work import TaskCancelledError, Workshop

COLUMNS = ("a", "b")
SPEC = ModelSpec(
    "m", TableInput(COLUMNS, (0.0, 0.0), (1.0, 1.0)), ("no", "yes"), (TensorSpec("w", (2,)),), batch_size=4
)
ROWS = 50


@pytest.fixture(scope="module")
def program() -> Any:
    """Of one dense layer whose weights are 1: its output is the sum of the columns."""
    import tf_keras

    from compression.models.ranges import range_program

    layers = [tf_keras.layers.Input((2,)), tf_keras.layers.Dense(1, kernel_initializer="ones", name="sum")]
    return range_program(tf_keras.Sequential(layers, name="summing"), 2)


@pytest.fixture
def workshop(tmp_path: Path, program: Any) -> tuple[Workshop, Task, BlobStore]:
    lines = ["a,b,label", *(f"{i},{-i},{'yes' if i % 2 else 'no'}" for i in range(ROWS))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    blobs = BlobStore(tmp_path / "state" / "blobs")
    config = EdgeConfig(
        name="pi-1",
        fleet="test",
        server_key="0" * 64,
        state=str(tmp_path / "state"),
        broker=BrokerAddress("localhost", 1883),
        data=DataConfig(source=f"table:{tmp_path / 'rows.csv'}"),
    )
    plan = RangesPlan(program=blobs.put(program.tflite), tensors=program.tensors)
    task = Task(
        fleet="test", run="0" * 16, number=9, kind="calibrate", round=2, cohort=("pi-1",),
        bundle=blobs.put(TrainableBundle(SPEC, b"no program: nothing is trained").to_bytes()), ranges=plan,
    )  # fmt: skip
    return Workshop(config, DeviceState(tmp_path / "state"), blobs), task, blobs


def never() -> bool:
    return False


def trained_rows(workshop: Workshop) -> Any:
    data = workshop.load_data(SPEC)
    return data.inputs[data.train_index]


def report(workshop: Workshop, task: Task) -> ActivationRanges:
    outcome = workshop.perform(task, never)
    assert outcome.result.payload == BlobRef.of(outcome.payload) and outcome.kept == {}
    assert (outcome.result.training, outcome.result.evaluation) == (None, None)
    return loads(ActivationRanges, outcome.payload, max_bytes=1 << 16)


def test_the_ranges_are_of_the_training_examples_and_known_by_hand(workshop: Any) -> None:
    shop, task, _ = workshop
    assert task.ranges is not None
    found = report(shop, task)
    trained = trained_rows(shop)
    assert (found.program, found.examples, len(trained)) == (task.ranges.program.digest, 40, 40)
    assert (found.low[0], found.high[0]) == (trained.min(), trained.max())  # the first is the input


def test_few_examples_are_spread_over_all_of_them(workshop: Any) -> None:
    shop, task, _ = workshop
    assert task.ranges is not None
    found = report(shop, replace(task, ranges=replace(task.ranges, examples=2)))
    trained = trained_rows(shop)
    assert (found.examples, found.high[0]) == (2, max(trained[0].max(), trained[-1].max()))


def test_noise_is_drawn_anew_each_time(workshop: Any) -> None:
    shop, task, _ = workshop
    assert task.ranges is not None
    noisy = replace(task, ranges=replace(task.ranges, noise=0.1))
    assert report(shop, noisy) != report(shop, noisy)
    assert report(shop, task) == report(shop, task)


def test_a_newer_task_ends_it_between_two_batches(workshop: Any) -> None:
    shop, task, _ = workshop
    asked = iter([False, False, True])
    with pytest.raises(TaskCancelledError):
        shop.perform(task, lambda: next(asked))


def test_a_program_that_is_gone_is_fetched_again(workshop: Any) -> None:
    shop, task, blobs = workshop
    blobs.keep_only([task.bundle.digest])
    with pytest.raises(BlobError, match="is not here"):
        shop.perform(task, never)


def test_a_device_with_too_little_memory_says_how_much_it_lacks() -> None:
    plan = RangesPlan(program=BlobRef.of(bytes(2_000_000)), tensors=(0,), kept_bytes=30_000_000)
    check_memory(plan, 32.0 + SPARE_MB)
    with pytest.raises(TaskError, match=r"needs 48 MB of memory, 47 MB are free"):
        check_memory(plan, 47.0)


def test_a_task_without_its_plan_is_no_task(workshop: Any) -> None:
    with pytest.raises(RecordError, match="calibrate needs a bundle and a plan"):
        replace(workshop[1], ranges=None)
    with pytest.raises(RecordError, match="ascending"):
        replace(workshop[1].ranges, tensors=(4, 2))
