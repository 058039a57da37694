"""Results as strategies have them: control variates, personal tensors, late updates, what is kept of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker_server.config import ReleaseConfig
from broker_server.errors import RunError
from broker_server.rounds.machine import CloseStage, Reported, Stage
from broker_server.rounds.policy import LatePolicy, late_policy, rules_of
from broker_server.strategies.fedavgm import FedAvgM
from broker_server.strategies.fedbuff import FedBuff
from broker_server.strategies.fednova import FedNova
from broker_server.strategies.fedper import FedPer
from broker_server.strategies.scaffold import CONTROL_SLOT, Scaffold
from compression.updates import PROFILES, encode_update
from edge_client.wire.blobs import BlobRef
from edge_client.wire.rounds import Receipt, TrainingReport
from edge_client.wire.variates import variate_digest
from tests.broker_server.test_intake import NAMES, SPEC, Desk, Stages_again

LATE = {"rounds": {"late": "weigh", "max_staleness": 1}}


def close(desk: Desk, number: int, *devices: str) -> Any:
    """The round is over with the results of these, and the next one begins."""
    command = CloseStage(Stage("train", number), desk.task.number, devices, {})
    record = desk.stages.close(command, {}, 0, 0.0)
    if number < desk.config.rounds.rounds:
        desk.task = desk.stages.make_task(Stage("train", number + 1), NAMES, ())
    return record


def coded(
    desk: Desk, value: float, *, variate: float | None, round_number: int = 1
) -> tuple[bytes, TrainingReport]:
    """A payload with a control variate's change behind it, or without."""
    payload = desk.payload(value, round_number)
    report = TrainingReport(examples=50, steps=4, loss=0.5, seconds=0.1, base_version=0)
    if variate is None:
        return payload, report
    assert desk.task.bundle
    change = encode_update(
        {t.name: np.full(t.shape, variate, np.float32) for t in SPEC.tensors},
        PROFILES["lossless"],
        model_digest=variate_digest(desk.task.bundle.digest),
        round_number=round_number,
    ).payload
    return payload + change, replace(report, variate_bytes=len(change))


# ---- FedNova ----


def test_a_device_with_more_examples_than_count_does_not_pull_by_its_steps(tmp_path: Path) -> None:
    """Both walk 1 a step: four of 50 examples, of which 10 count, and one of 10."""
    desk = Desk(tmp_path, strategy=FedNova(), max_examples=10)
    report = TrainingReport(examples=50, steps=4, loss=0.5, seconds=0.1, base_version=0)
    desk.send("pi-1", desk.payload(4.0), training=report)
    desk.send("pi-2", desk.payload(1.0), training=replace(report, examples=10, steps=1))
    close(desk, 1, "pi-1", "pi-2")
    assert float(desk.stages.versions.weights["w"][0, 0]) == pytest.approx(1.0, abs=0.01)


# ---- SCAFFOLD ----


def test_a_variate_moves_the_servers_and_goes_down_with_the_next_task(tmp_path: Path) -> None:
    desk = Desk(tmp_path, strategy=Scaffold())
    assert desk.task.control is not None and desk.task.control.version == 0
    for name, value in zip(NAMES, (1.0, 2.0, 3.0), strict=True):
        payload, report = coded(desk, 0.5, variate=value)
        assert desk.send(name, payload, training=report) == Reported(name)
    close(desk, 1, *NAMES)
    state = desk.stages.aggregation.state.read()[CONTROL_SLOT]
    assert float(state["b"][0]) == pytest.approx(2.0)
    assert desk.task.control is not None and desk.task.control.version == 1
    assert [ref.digest for ref in desk.stages.broadcast(desk.task)]
    again = Stages_again(desk)
    assert float(again.aggregation.state.read()[CONTROL_SLOT]["b"][0]) == pytest.approx(2.0)
    assert again.aggregation.state.reference() == desk.task.control
    for blob in (desk.task.control.full, *(step.blob for step in desk.task.control.steps)):
        assert again.artefacts.has(blob)


def with_length(desk: Desk, change: int) -> tuple[bytes, TrainingReport]:
    """A good payload whose report says another length of the variate's part."""
    payload, report = coded(desk, 0.5, variate=1.0)
    return payload, replace(report, variate_bytes=report.variate_bytes + change)


def two_updates(desk: Desk) -> tuple[bytes, TrainingReport]:
    """An update in place of the variate's change."""
    update, (_, report) = desk.payload(), coded(desk, 0.5, variate=1.0)
    return update + update, replace(report, variate_bytes=len(update))


BAD = {
    "none": lambda desk: coded(desk, 0.5, variate=None),
    "of another round": lambda desk: coded(desk, 0.5, variate=1.0, round_number=2),
    "huge": lambda desk: coded(desk, 0.5, variate=1e6),
    "cut short": lambda desk: with_length(desk, -1),
    "longer than all": lambda desk: with_length(desk, 1 << 26),
    "an update again": two_updates,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_variate_is_refused(tmp_path: Path, kind: str) -> None:
    desk = Desk(tmp_path, strategy=Scaffold())
    payload, report = BAD[kind](desk)
    event = desk.send("pi-1", payload, training=report)
    assert event is not None and event.problem


def test_a_variate_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    payload, report = coded(desk, 0.5, variate=1.0)
    event = desk.send("pi-1", payload, training=report)
    assert event is not None and "not asked for" in str(event.problem)


# ---- FedPer, and state between rounds ----


def test_personal_tensors_are_not_taken_and_do_not_move(tmp_path: Path) -> None:
    desk = Desk(tmp_path, strategy=FedPer(layers=("b",)), release=ReleaseConfig(enabled=False))
    assert desk.task.personal == ("b",)
    whole = desk.send("pi-1", desk.payload(0.5))
    assert whole is not None and whole.problem  # holds what should have stayed
    assert desk.task.bundle
    shared = encode_update(
        {"w": np.full((40, 30), 0.5, np.float32)},
        PROFILES["lossless"],
        model_digest=desk.task.bundle.digest,
        round_number=1,
    ).payload
    assert desk.send("pi-2", shared) == Reported("pi-2")
    record = close(desk, 1, "pi-2")
    weights = desk.stages.versions.weights
    assert float(weights["w"][0, 0]) == pytest.approx(0.5, abs=0.01)
    assert not weights["b"].any()
    assert record.evaluation is None


def test_a_layer_that_the_model_does_not_have_ends_the_run_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no layer 'head'; the model has w, b"):
        Desk(tmp_path, strategy=FedPer(layers=("head",)), release=ReleaseConfig(enabled=False))


def test_momentum_survives_a_restart(tmp_path: Path) -> None:
    desk = Desk(tmp_path, strategy=FedAvgM(momentum=0.5))
    desk.send("pi-1", desk.payload(1.0))
    close(desk, 1, "pi-1")
    desk.stages = Stages_again(desk)
    state = desk.stages.aggregation.state.read()
    assert float(state["velocity"]["b"][0]) == 1.0
    with pytest.raises(RunError, match="other settings"):
        desk.stages.ledger.close()
        desk.config = replace(desk.config, strategy=FedAvgM(momentum=0.6))
        Stages_again(desk)


# ---- late ----


def test_by_default_a_late_result_is_thrown_away(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    first, payload = desk.task, desk.payload()
    desk.send("pi-1", payload)
    close(desk, 1, "pi-1")
    assert not desk.task.patient
    late = desk.offer("pi-2", desk.result(payload, task=first), payload)
    assert late is None and not desk.receipt().accepted


def test_a_late_result_counts_for_less_in_the_next_round(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **LATE)
    assert desk.task.patient
    first, payload = desk.task, desk.payload(1.0)
    desk.send("pi-1", desk.payload(0.0))
    close(desk, 1, "pi-1")
    assert desk.offer("pi-2", desk.result(payload, task=first), payload) == Reported("pi-2")
    desk.send("pi-1", desk.payload(0.0, round_number=2))
    close(desk, 2, "pi-1", "pi-2")
    left = 2**-0.5  # of its weight, one version later; 10 examples each
    moved = float(desk.stages.versions.weights["w"][0, 0])
    assert moved == pytest.approx(left / (1 + left), abs=0.01)


def test_a_result_that_is_too_old_is_thrown_away(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **LATE)
    first, payload = desk.task, desk.payload()
    for number in (1, 2):
        desk.send("pi-1", desk.payload(round_number=number))
        close(desk, number, "pi-1")
    assert desk.offer("pi-2", desk.result(payload, task=first), payload) is None
    assert not desk.receipt().accepted


def test_a_device_counts_once_a_round_and_its_next_result_waits_for_the_next(tmp_path: Path) -> None:
    desk = Desk(tmp_path, strategy=FedBuff(buffer=2))
    first, payload = desk.task, desk.payload()
    desk.send("pi-1", payload)
    close(desk, 1, "pi-1")
    desk.offer("pi-2", desk.result(payload, task=first), payload)  # late, counts in round 2
    second = desk.task
    following = desk.payload(round_number=2)
    answers = len(desk.sent)
    assert desk.send("pi-2", following) is None
    assert len(desk.sent) == answers  # no receipt: it keeps its copy
    close(desk, 2, "pi-2")
    assert desk.offer("pi-2", desk.result(following, task=second), following) == Reported("pi-2")
    assert desk.sent[-1] == ("pi-2", Receipt(task=second.number, accepted=True))
    assert desk.result(following).payload == BlobRef.of(following)


def test_late_results_are_for_rounds_of_training(tmp_path: Path) -> None:
    desk = Desk(tmp_path, **LATE)
    payloads = []
    for number in (1, 2, 3):
        last = desk.task
        payloads.append(desk.payload(round_number=number))
        desk.send("pi-1", payloads[-1])
        close(desk, number, "pi-1")
    desk.task = desk.stages.make_task(Stage("evaluate", 3), NAMES, ())
    assert not desk.task.patient
    assert desk.offer("pi-2", desk.result(payloads[-1], task=last), payloads[-1]) is None
    assert not desk.receipt().accepted


def test_the_rules_follow_the_settings(tmp_path: Path) -> None:
    plain, buffered = Desk(tmp_path / "a"), Desk(tmp_path / "b", strategy=FedBuff(buffer=5))
    assert (rules_of(plain.config).enough, rules_of(plain.config).overlapping) == (None, False)
    assert (rules_of(buffered.config).enough, rules_of(buffered.config).overlapping) == (5, True)
    policy = late_policy(buffered.config)
    assert policy == LatePolicy(True, 10, 0.5)
    assert [policy.discount(staleness) for staleness in (0, 3)] == [1.0, 0.5]
    assert [policy.accepts(staleness) for staleness in (-1, 0, 10, 11)] == [False, True, True, False]
