"""A device's work with a real training program: what a task asks for is what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compression.records import loads
from compression.spec import TableInput, pack_weights, weights_digest
from compression.updates import decode_update, pack_model
from edge_client.config import DataConfig, EdgeConfig
from edge_client.data import ColumnStatistics
from edge_client.session.address import BrokerAddress
from edge_client.session.blobs import BlobStore
from edge_client.state import DeviceState
from edge_client.training import examples
from edge_client.versions import TaskError
from edge_client.wire.rounds import Task, TrainingPlan
from edge_client.wire.weights import WeightsRef
from edge_client.work import TaskCancelledError, Workshop

COLUMNS = ("a", "b", "c")
Program = tuple[bytes, dict[str, np.ndarray]]
PLAN = TrainingPlan(epochs=3, learning_rate=0.01, codec="lossless", seed=5)


@pytest.fixture(scope="module")
def program() -> Program:
    """A compiled model for three columns, and its first weights."""
    from broker_server.models import build_model
    from compression.tf import quiet, tensorflow

    with quiet():
        tensorflow().keras.utils.set_random_seed(1)
        from compression.trainable import compile_trainable

        input = TableInput(columns=COLUMNS, center=(0.0,) * 3, spread=(1.0,) * 3)
        model = build_model("small_mlp", input.shape, 2)
        result = compile_trainable(model, name="small_mlp", input=input, classes=("no", "yes"))
    return result.bundle.to_bytes(), result.weights


@pytest.fixture
def device(tmp_path: Path, program: Program) -> Callable[..., tuple[Workshop, Task]]:
    """Makes a workshop on a skewed table, and a training task for it."""
    rng = np.random.default_rng(0)
    lines = ["a,b,c,label"]
    for index in range(120):
        label = "yes" if index % 6 == 0 else "no"
        a, b, c = rng.normal(1.0 if label == "yes" else -0.5, 1.0, 3)
        lines.append(f"{a},{b},{c},{label}")
    (tmp_path / "rows.csv").write_text("\n".join(lines))

    def make(name: str = "pi-1", plan: TrainingPlan = PLAN, **changes: object) -> tuple[Workshop, Task]:
        folder = tmp_path / f"state-{len(list(tmp_path.iterdir()))}"
        blobs = BlobStore(folder / "blobs")
        bundle, weights = program
        ref = WeightsRef(version=0, digest=weights_digest(weights), full=blobs.put(pack_model(weights)))
        config = EdgeConfig(
            name=name,
            fleet="test",
            server_key="0" * 64,
            state=str(folder),
            broker=BrokerAddress("localhost", 1883),
            data=DataConfig(source=f"table:{tmp_path / 'rows.csv'}"),
        )
        task = Task(
            fleet="test", run="0" * 16, number=9, kind="train", round=2, cohort=(name,),
            bundle=blobs.put(bundle), weights=ref, training=plan,
        )  # fmt: skip
        return Workshop(config, DeviceState(folder), blobs), replace(task, **changes)  # type: ignore[arg-type]

    return make


def never() -> bool:
    return False


def delta_of(program: Program, payload: bytes) -> np.ndarray:
    from compression.spec import TrainableBundle

    bundle = TrainableBundle.from_bytes(program[0])
    update = decode_update(payload, bundle.spec.tensors, model_digest=bundle.digest)
    return np.concatenate([array.ravel() for array in update.delta.values()])


def test_training_reports_what_it_did_and_moves_the_weights(device, program) -> None:
    workshop, task = device()
    outcome = workshop.perform(task, never)
    report, sums = outcome.result.training, outcome.result.evaluation
    assert report is not None and sums is not None
    assert (report.examples, report.steps) == (96, 3 * 6)  # 80 % of 120 rows in batches of 16
    assert sums.examples == 24
    assert outcome.result.payload is not None
    assert np.abs(delta_of(program, outcome.payload)).max() > 0.001
    assert not any(array.any() for array in outcome.kept["residual"].values())  # lossless keeps nothing back


def test_the_seed_the_round_and_the_name_decide_and_nothing_else(device) -> None:
    def payload(**options: object) -> bytes:
        workshop, task = device(**options)
        return workshop.perform(task, never).payload

    first = payload()
    assert payload(number=10) == first
    assert payload(name="pi-2") != first
    assert payload(plan=replace(PLAN, seed=6)) != first


def test_balance_makes_the_rare_class_count(device, program) -> None:
    deltas = []
    for balance in (False, True):
        workshop, task = device(plan=replace(PLAN, balance=balance))
        deltas.append(delta_of(program, workshop.perform(task, never).payload))
    output_bias = -1
    assert deltas[1][output_bias] > deltas[0][output_bias]  # "yes" is the rare one, and the positive one


def test_a_lossy_codec_keeps_the_rest_for_the_next_time(device, program) -> None:
    exact = delta_of(program, device()[0].perform(device()[1], never).payload)
    workshop, task = device(plan=replace(PLAN, codec="safe"))
    outcome = workshop.perform(task, never)
    owed = np.concatenate([array.ravel() for array in outcome.kept["residual"].values()])
    np.testing.assert_allclose(delta_of(program, outcome.payload) + owed, exact, atol=1e-5)


def test_what_is_owed_to_a_pruned_weight_is_dropped_where_the_run_prunes(device, program) -> None:
    sent = {}
    for keep in (False, True):
        workshop, task = device(plan=replace(PLAN, keep_zeros=keep))
        pruned = {name: np.where(array > 0, array, 0) for name, array in program[1].items()}
        ref = WeightsRef(
            version=1, digest=weights_digest(pruned), full=workshop._blobs.put(pack_model(pruned))
        )
        task = replace(task, weights=ref)
        workshop.perform(replace(task, number=8), never)  # which makes it belong to the bundle and the run
        owed = {name: np.full_like(array, 5) for name, array in program[1].items()}
        (workshop._state.directory / "residual.bin").write_bytes(pack_weights(owed))
        sent[keep] = delta_of(program, workshop.perform(task, never).payload)
    zero = np.concatenate(
        [(array <= 0).ravel() & name.endswith("kernel") for name, array in program[1].items()]
    )
    assert zero.any()
    np.testing.assert_allclose(sent[False] - sent[True], np.where(zero, 5, 0), atol=1e-4)


def test_the_watchdog_hears_of_examples_that_are_read_and_evaluated(
    device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes without a word end the service: for a large folder on a small board again and again."""
    workshop, task = device(kind="evaluate", training=None)
    heard: list[str] = []
    monkeypatch.setattr(workshop, "_alive", lambda: heard.append("alive"))
    read = examples.load_data

    def reading(*arguments: object, progress: Callable[[int, int], None], **options: object) -> object:
        progress(1, 2)
        heard.append("read")
        return read(*arguments, **options)

    monkeypatch.setattr(examples, "load_data", reading)
    workshop.perform(task, never)
    assert heard[:2] == ["alive", "read"]
    assert heard[2:] == ["alive"] * (2 + 6 + 2)  # batches of 16: 24 to evaluate; 96 and 24 to calibrate


def test_evaluation_alone_sends_no_update(device) -> None:
    workshop, task = device(kind="evaluate", training=None)
    outcome = workshop.perform(task, never)
    assert outcome.result.evaluation is not None and outcome.result.payload is None
    assert outcome.payload == b"" and not outcome.kept


def test_statistics_are_of_the_training_rows(device) -> None:
    workshop, task = device(kind="statistics", columns=COLUMNS, bundle=None, weights=None, training=None)
    statistics = loads(ColumnStatistics, workshop.perform(task, never).payload, max_bytes=1 << 20)
    assert statistics.rows == 96
    assert tuple(column.name for column in statistics.columns) == COLUMNS


def test_what_cannot_be_done_is_said(device) -> None:
    workshop, task = device(plan=replace(PLAN, codec="morse"))
    with pytest.raises(TaskError, match="'morse' is unknown here"):
        workshop.perform(task, never)


def test_it_stops_between_two_batches(device) -> None:
    workshop, task = device()
    answers = iter([False, False, True])
    with pytest.raises(TaskCancelledError):
        workshop.perform(task, lambda: next(answers))
