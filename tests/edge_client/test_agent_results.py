"""The agent and its results: offered until the receipt, done once, and never one for another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_client.offering import GIVE_UP_S, OFFER_RETRY_S
from edge_client.state import DeviceState
from edge_client.wire.blobs import BlobRef
from edge_client.wire.chunks import Chunk, Grant
from edge_client.wire.rounds import Receipt, Result, TrainingReport
from tests.edge_client.agent_cases import (
    DOWN,
    LARGE,
    SPEC,
    UP,
    WEIGHTS,
    Case,
    offers,
    performing,
    statistics,
)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def test_a_long_outage_does_not_cost_the_result_its_offer(case: Case) -> None:
    case.agent._state.keep_pending(Result(task=5, status="done"), b"")
    case.step(statistics(6))
    assert offers(case.session.out, 5) == 1
    case.session.connected = False
    case.step(DOWN, seconds=10 * GIVE_UP_S)
    case.session.connected = True
    assert offers(case.step(UP), 5) == 1
    assert offers(case.steps(GIVE_UP_S - 2), 5) >= 3
    assert case.agent._state.pending is not None
    case.steps(4)
    assert offers(case.session.out, 6) == 1  # given up, and the newer task done


def test_a_new_task_makes_an_old_result_be_offered_at_once(case: Case) -> None:
    case.agent._state.keep_pending(Result(task=5, status="done"), b"")
    case.steps(600)  # the offers have become rare
    assert offers(case.step(statistics(6)), 5) == 1
    assert offers(case.steps(GIVE_UP_S), 5) >= 3


def test_tasks_that_keep_coming_do_not_keep_a_result_for_ever(case: Case) -> None:
    case.agent._state.keep_pending(Result(task=5, status="done"), b"")
    for number in range(6, 12):
        case.step(statistics(number))
        case.steps(GIVE_UP_S / 2)
    assert case.agent._state.memory.task > 5


def test_a_result_that_may_have_moved_the_fleets_variate_waits_for_its_receipt(case: Case) -> None:
    """Given up and counted all the same, the device's control variate would not be what the fleet's holds."""
    training = TrainingReport(examples=1, steps=1, loss=0.5, seconds=0.1, base_version=0, variate_bytes=1)
    case.agent._state.keep_pending(
        Result(task=5, status="done", training=training), b"", {"variate": WEIGHTS}
    )
    for number in range(6, 9):
        case.step(statistics(number))
        assert offers(case.steps(2 * GIVE_UP_S), 5) >= 1
    assert case.agent._state.memory.task == 5
    case.step(Receipt(task=5, accepted=True))
    kept = case.agent._state.kept("variate", SPEC)
    assert kept is not None and np.array_equal(kept["w"], WEIGHTS["w"])
    case.steps(5)
    assert case.agent._state.memory.task == 8  # and then the newest task


def test_a_task_whose_result_was_written_is_never_done_twice(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = case.agent._state
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DeviceState, "remember", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        state.keep_pending(Result(task=7, status="done"), b"first")
    case.reboot()
    done = performing(case, monkeypatch, lambda _: None)
    case.step(statistics(7))
    case.step(Receipt(task=7, accepted=True))
    case.step(statistics(7))
    assert done == []
    assert offers(case.session.out, 7) >= 1


def test_during_a_slow_upload_the_result_is_not_offered_again(case: Case) -> None:
    ref = BlobRef.of(LARGE)
    case.agent._state.keep_pending(Result(task=5, status="done", payload=ref), LARGE)
    assert offers(case.step(), 5) == 1
    case.session.seconds_a_chunk = 30.0
    sent = case.step(Grant(task=5, blob=ref.digest, chunks=(0, 1, 2)))
    assert [message.index for message in sent if isinstance(message, Chunk)] == [0, 1, 2]
    assert offers(sent, 5) == 0
    assert offers(case.step(seconds=0.5 * OFFER_RETRY_S), 5) == 0
    assert offers(case.step(seconds=OFFER_RETRY_S), 5) == 1
