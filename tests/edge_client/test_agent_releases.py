"""The agent and releases: decided once, tried again after what may pass; replaced, replayed, withdrawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compression.updates import pack_model
from edge_client.inference import aftercare
from edge_client.session.blobs import BlobError
from edge_client.wire.blobs import BlobRef
from edge_client.wire.frame import encode
from edge_client.wire.rollout import ModelHealth, ReleaseReport, WatchPlan
from tests.edge_client.agent_cases import (
    LARGE,
    NAME,
    SPEC,
    WEIGHTS,
    Case,
    bundle_of,
    performing,
    release,
    statistics,
)

WITHDRAWAL = replace(release(4), version=0, order=9, rollback=True)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def report_of(messages: list[Any]) -> ReleaseReport:
    (report,) = [message for message in messages if isinstance(message, ReleaseReport)]
    return report


def test_a_release_that_cannot_be_installed_is_refused_and_the_agent_lives(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "label " * 200

    def bad(*_: object) -> None:
        raise ValueError(reason)

    monkeypatch.setattr(case.agent._workshop, "open", bad)
    for data in (b"a model", bundle_of(), pack_model(WEIGHTS)):
        case.agent._blobs.put(data)
    report = report_of(case.step(release(1)))
    assert (report.outcome, report.reason) == ("refused", reason[:500])
    assert case.agent._state.memory.release == 1


@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), BlobError("damaged")])
def test_trouble_that_may_pass_decides_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    for data in (b"a model", bundle_of(), pack_model(WEIGHTS)):
        case.agent._blobs.put(data)
    attempts: list[float] = []

    def open_later(*_: object) -> None:
        attempts.append(case.clock.now)
        raise trouble if len(attempts) < 4 else ValueError("for good")

    monkeypatch.setattr(case.agent._workshop, "open", open_later)
    case.step(release(1))
    assert case.agent._state.memory.release == 0
    report = report_of(case.steps(10))
    assert report.outcome == "refused"
    assert [later - attempts[0] for later in attempts] == [0.0, 1.0, 3.0, 7.0]


def test_a_release_for_this_device_alone_comes_on_its_own_topic(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided(case, monkeypatch)
    assert report_of(case.tell(release(4))).order == 4


def test_a_release_for_others_is_not_remembered(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(case, monkeypatch)
    assert case.step(release(4, cohort=("another",))) == []
    assert case.agent._state.memory.release == 0
    assert report_of(case.step(release(4, cohort=("another", NAME)))).order == 4  # the next wave


def test_a_replay_is_reported_once_and_changes_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(case, monkeypatch)
    case.step(release(4))
    report = report_of(case.step(release(3)))
    assert (report.order, report.outcome) == (3, "refused")
    assert report.reason == "a replay: order 3, this device has seen 4"
    assert case.step(release(3)) == []
    assert report_of(case.step(release(4))).order == 4  # the server asks again
    assert case.agent._state.memory.release == 4


def test_a_newer_release_takes_the_place_of_one_that_is_being_fetched(case: Case) -> None:
    case.step(release(1, model=LARGE))
    case.step(release(2, model=LARGE))
    assert case.agent._rollout.release is not None and case.agent._rollout.release.order == 2
    case.step(release(1, model=LARGE))
    assert case.agent._rollout.release.order == 2


def test_a_release_that_is_withdrawn_is_not_fetched_any_further(case: Case) -> None:
    case.step(release(1, model=LARGE))
    assert case.withdraw() == []
    assert case.agent._rollout.release is None
    case.answer_requests(LARGE)
    assert case.agent._state.memory.release == 0


def test_what_a_device_was_told_by_itself_stays_when_the_fleets_release_is_withdrawn(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.step(release(1))
    case.tell(release(2, model=LARGE, cohort=(NAME,)))
    case.withdraw()
    assert case.agent._rollout.release is not None and case.agent._rollout.release.version == 2
    decided(case, monkeypatch)
    case.answer_requests(LARGE)
    assert case.agent._state.memory.release == 2
    case.step(release(3, model=LARGE + b"?"))
    case.withdraw()  # this one was the fleet's again
    assert case.agent._rollout.release is None


def test_a_first_model_that_is_taken_back_is_not_looked_at_any_more(case: Case) -> None:
    frame = encode(release(4, watch=WatchPlan(seconds=25.0, every_s=10.0)), topic="x", signer=case._signer)
    slots = case.agent._aftercare._slots
    slots.activate(slots.stage(4, b"a model", SPEC, manifest=frame))
    case.agent._aftercare.begin(case.clock.now)
    report = report_of(case.step(WITHDRAWAL))
    assert (report.order, report.version, report.outcome, report.active_version) == (9, 0, "rolled-back", 0)
    assert not [message for message in case.steps(30) if isinstance(message, ModelHealth)]
    assert report_of(case.step(WITHDRAWAL)) == report  # the server asks again


def test_after_the_switch_it_says_how_the_model_does_for_as_long_as_it_is_asked(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, watch = case.agent._aftercare._slots, WatchPlan(seconds=25.0, every_s=10.0)
    frame = encode(release(4, watch=watch), topic="x", signer=case._signer)
    slots.activate(slots.stage(4, b"no model", SPEC, manifest=frame))
    case.agent._aftercare.begin(case.clock.now)
    said = [message for message in case.steps(60) if isinstance(message, ModelHealth)]
    assert [(message.version, "refuses the model" in message.problem) for message in said] == [(4, True)] * 3
    case.clock.now += aftercare.LATER_S - 100.0
    assert not [message for message in case.steps(30) if isinstance(message, ModelHealth)]
    case.clock.now += 60.0  # once a day from then on
    assert len([message for message in case.steps(60) if isinstance(message, ModelHealth)]) == 1


def decided(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every release is refused at once."""

    def bad(*_: object) -> None:
        raise ValueError("for good")

    monkeypatch.setattr(case.agent._workshop, "open", bad)
    for data in (b"a model", bundle_of(), pack_model(WEIGHTS)):
        case.agent._blobs.put(data)


def test_a_task_does_not_sweep_away_a_release_that_is_being_fetched(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    performing(case, monkeypatch, lambda _: None)
    case.step(release(1, model=LARGE))
    case.chunk(LARGE, 0)
    case.step(statistics(3))
    assert case.agent._blobs.missing(BlobRef.of(LARGE)) == [1, 2]
