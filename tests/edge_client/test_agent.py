"""The agent's turns, without a network: what it does when things go wrong in the middle of something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compression.updates import pack_model
from edge_client.agent import Agent
from edge_client.config import DataConfig
from edge_client.data.errors import NOT_TOLD, DataError
from edge_client.device.slots import TRIAL_S
from edge_client.files import write_atomically
from edge_client.inference import aftercare
from edge_client.offering import GIVE_UP_S, OFFER_RETRY_S
from edge_client.sd_notify import ServiceManager
from edge_client.session.blobs import BlobError
from edge_client.session.inbox import ConnectionChange
from edge_client.state import DeviceState
from edge_client.troubles import FIRST_REST_S
from edge_client.wire.blobs import CHUNK_BYTES, BlobRef, split
from edge_client.wire.chunks import BlobRequest, Chunk, Grant
from edge_client.wire.frame import encode
from edge_client.wire.presence import Hello, HelloRequest, Presence
from edge_client.wire.rollout import ModelHealth, ReleaseReport, WatchPlan
from edge_client.wire.rounds import Receipt, Result, Task, TrainingReport
from edge_client.wire.topics import MESSAGE
from edge_client.work import Outcome, TaskCancelledError
from tests.edge_client.agent_cases import (
    DOWN,
    NAME,
    SPEC,
    TOPICS,
    UP,
    WEIGHTS,
    Case,
    bundle_of,
    release,
    task,
)

LARGE = np.random.default_rng(0).bytes(3 * CHUNK_BYTES)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def statistics(number: int) -> Task:
    return task(number, kind="statistics", columns=("x",), bundle=None, weights=None)


def offers(messages: list[Any], number: int) -> int:
    return sum(isinstance(message, Result) and message.task == number for message in messages)


def performing(case: Case, monkeypatch: pytest.MonkeyPatch, batches: Callable[[int], None]) -> list[int]:
    """Replace training by four batches with something happening before each; numbers of the tasks done."""
    done: list[int] = []

    def perform(work: Task, cancelled: Callable[[], bool]) -> Outcome:
        for batch in range(4):
            batches(batch)
            if cancelled():
                raise TaskCancelledError
        done.append(work.number)
        return Outcome(Result(task=work.number, status="done"))

    monkeypatch.setattr(case.agent._workshop, "perform", perform)
    return done


@pytest.mark.parametrize(
    "error",
    [DataError("scans/meier.png: label 'c' is not one of the classes"), OSError(13, "no", "meier.png")],
)
def test_no_file_name_leaves_the_device_with_a_failure(
    case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def batches(_: int) -> None:
        raise error

    performing(case, monkeypatch, batches)
    case.step(statistics(3))
    (result,) = [message for message in case.session.out if isinstance(message, Result)]
    assert (result.status, result.reason) == ("failed", NOT_TOLD)


# ---- while it trains ----


def test_a_reconnect_in_the_middle_of_training_is_said_at_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[list[str]] = []

    def batches(batch: int) -> None:
        if batch == 1:
            case.arrive(DOWN, UP)
        said.append([type(message).__name__ for message in case.session.out])

    done = performing(case, monkeypatch, batches)
    case.step(statistics(3))
    assert done == [3]
    assert said == [[], [], ["Presence", "Hello"], ["Presence", "Hello"]]


def test_without_a_connection_training_goes_on(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(batch: int) -> None:
        if batch == 0:
            case.session.connected = False
            case.arrive(UP)  # gone again by the time it is read
        case.session.connected = case.session.connected or batch == 3

    assert performing(case, monkeypatch, batches) == []
    case.step(statistics(3))
    assert case.agent._state.pending is not None


def test_a_hello_that_is_asked_for_is_sent_between_two_batches(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches(batch: int) -> None:
        if batch == 2:
            assert not case.session.out
            case.arrive(HelloRequest(session="0" * 16))
        if batch == 3:
            assert isinstance(case.session.out[-1], Hello)

    assert performing(case, monkeypatch, batches) is not None
    case.step(statistics(3))
    assert offers(case.session.out, 3) == 1


@pytest.mark.parametrize("cohort", [(NAME,), ("another",)])
def test_a_newer_task_ends_training_whoever_it_is_for(
    case: Case, monkeypatch: pytest.MonkeyPatch, cohort: tuple[str, ...]
) -> None:
    arrived: list[int] = []

    def batches(batch: int) -> None:
        arrived.append(batch)
        if len(arrived) == 2:
            case.arrive(statistics(3), replace(statistics(4), cohort=cohort))

    done = performing(case, monkeypatch, batches)
    case.step(statistics(3))
    assert done == []
    assert len(arrived) == 2
    case.step()
    assert done == ([4] if NAME in cohort else [])


def test_being_stopped_leaves_the_task_for_the_next_process(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = performing(case, monkeypatch, lambda _: case.agent._stop.set())
    case.step(statistics(3))
    assert done == []
    assert case.agent._state.memory.task == 0


@pytest.mark.parametrize("patient", [True, False])
def test_a_patient_task_waits_for_the_one_at_work(
    case: Case, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    def batches(batch: int) -> None:
        if batch == 1:
            case.arrive(replace(statistics(4), patient=patient))

    done = performing(case, monkeypatch, batches)
    sent = case.step(statistics(3))
    if not patient:
        case.step()
        assert done == [4]
        return
    assert done == [3]
    assert offers(sent + case.step(), 3)
    case.step(Receipt(task=3, accepted=True))
    case.step()
    assert done == [3, 4]


def test_a_patient_task_for_others_does_not_interrupt(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(batch: int) -> None:
        if batch == 1:
            case.arrive(replace(statistics(4), patient=True, cohort=("another",)))

    done = performing(case, monkeypatch, batches)
    case.step(statistics(3))
    assert done == [3]


# ---- what the disk does ----


def test_a_full_disk_is_survived_and_the_task_is_done_later(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = performing(case, monkeypatch, lambda _: None)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(DeviceState, "keep_pending", no_space)
        case.step(statistics(3))
        assert case.agent._sleep_s() == FIRST_REST_S
        case.step(seconds=0.5)
        assert done == [3]  # not again before the rest is over
        case.step(seconds=0.5)
        assert done == [3, 3]
        case.step(seconds=FIRST_REST_S)
        assert done == [3, 3]  # the next rest is longer
    assert offers(case.steps(3), 3) == 1
    assert done == [3, 3, 3]


def test_all_chunks_here_but_not_joined_is_a_task_that_can_begin(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = performing(case, monkeypatch, lambda _: None)
    ref = BlobRef.of(LARGE)
    for index, part in enumerate(split(LARGE)):
        write_atomically(case.agent._blobs.path(f"{ref.digest}.parts") / str(index), part)
    case.agent._blobs.put(pack_model(WEIGHTS))
    case.step(task(3, bundle=ref))
    assert done == [3]


def test_a_blob_damaged_on_disk_is_fetched_again_and_the_task_goes_on(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, weights = bundle_of(), pack_model(WEIGHTS)
    for data in (bundle, weights):
        case.agent._blobs.path(case.agent._blobs.put(data).digest).write_bytes(b"damaged")

    def perform(work: Task, _cancelled: Callable[[], bool]) -> Outcome:
        for data in (bundle, weights):
            assert case.agent._blobs.read(BlobRef.of(data)) == data
        return Outcome(Result(task=work.number, status="done"))

    monkeypatch.setattr(case.agent._workshop, "perform", perform)
    case.step(task(3))
    case.answer_requests(bundle, weights)
    results = [message for message in case.session.out if isinstance(message, Result)]
    assert [(result.task, result.status) for result in results[:1]] == [(3, "done")]


def test_weights_damaged_while_it_was_off_are_fetched_as_a_whole(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = BlobRef.of(bundle_of())
    work = task(3, bundle=bundle)
    assert work.weights is not None
    case.agent._state.use_bundle(bundle.digest)
    case.agent._state.keep_weights(0, work.weights.digest, WEIGHTS)
    case.agent._blobs.put(bundle_of())
    (case.agent._state.directory / "weights.bin").write_bytes(bytes(8))
    case.reboot()
    case.step(work)
    (request,) = [message for message in case.step(seconds=1.0) if isinstance(message, BlobRequest)]
    assert request.blob == work.weights.full.digest


# ---- results ----


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


# ---- releases ----


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
    signed = case._from_server(release(4))  # as for everyone, and then on the other topic
    topic = TOPICS.down(NAME, MESSAGE)
    payload = encode(release(4), topic=topic, signer=case._signer)
    case.session.inbox.append(replace(signed, topic=topic, payload=payload))
    assert report_of(case.step()).order == 4


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


# ---- the rest ----


def test_a_bad_sensor_does_not_keep_the_device_from_saying_hello(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_client.health.temperature_c", lambda: 255.0)
    sent = case.step(UP)
    assert [type(message) for message in sent] == [Presence, Hello]


def test_chunks_that_wait_in_the_inbox_are_taken_before_anything_is_asked_for(case: Case) -> None:
    case.step(task(3, bundle=BlobRef.of(LARGE)))
    for index in range(3):
        case.chunk(LARGE, index)
    sent = case.step(seconds=100.0)
    asked = [message.blob for message in sent if isinstance(message, BlobRequest)]
    assert BlobRef.of(LARGE).digest not in asked


def test_it_says_goodbye(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.agent._uplink.say_goodbye()
    (farewell,) = case.session.out
    assert isinstance(farewell, Presence)
    assert farewell.state == "offline"
    case.session.connected = False
    case.agent._uplink.say_goodbye()
    assert isinstance(case.agent, Agent)
    assert case.step(ConnectionChange(False, "gone")) == []


def test_while_examples_are_counted_systemd_is_asked_for_time_and_a_trial_begins_anew(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = case.agent._state.directory.parent / "pictures"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(images / name / "one.png")
    config = replace(case.config, data=DataConfig(source=f"folder:{images}"))
    asked, alarms = list[str](), [700]  # seconds left of the launcher's

    def alarm(seconds: int) -> int:
        alarms.append(seconds)
        return alarms[-2]

    monkeypatch.setattr("edge_client.agent.signal.alarm", alarm)
    manager = ServiceManager({})
    monkeypatch.setattr(manager, "_send", asked.append)
    case.agent._state.close()
    Agent(config, manager)
    assert asked == ["EXTEND_TIMEOUT_USEC=300000000"]
    assert alarms == [700, 0, TRIAL_S, 0, TRIAL_S]  # twice: one example and the next
