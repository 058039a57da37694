"""The agent at a task: what comes in while it trains, and what the disk does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compression.updates import pack_model
from edge_client.data.errors import NOT_TOLD, DataError
from edge_client.files import write_atomically
from edge_client.state import DeviceState
from edge_client.troubles import FIRST_REST_S
from edge_client.wire.blobs import BlobRef, split
from edge_client.wire.chunks import BlobRequest
from edge_client.wire.presence import Hello, HelloRequest
from edge_client.wire.rounds import Receipt, Result, Task
from edge_client.work import Outcome
from tests.edge_client.agent_cases import (
    DOWN,
    LARGE,
    NAME,
    UP,
    WEIGHTS,
    Case,
    bundle_of,
    offers,
    performing,
    statistics,
    task,
)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


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


def test_what_comes_inside_a_task_is_not_asked_for(case: Case) -> None:
    case.task_with(task(5), bundle_of())
    weights = BlobRef.of(pack_model(WEIGHTS))
    asked = {message.blob for message in case.steps(2.0) if isinstance(message, BlobRequest)}
    assert asked == {weights.digest}


@pytest.mark.parametrize("body", [b"", b"something else", bundle_of()[:-1] + b"x"])
def test_what_the_task_does_not_name_is_not_kept(case: Case, body: bytes) -> None:
    case.task_with(task(5), body)
    asked = {message.blob for message in case.steps(2.0) if isinstance(message, BlobRequest)}
    assert asked == {BlobRef.of(bundle_of()).digest, BlobRef.of(pack_model(WEIGHTS)).digest}
    assert not list((case.agent._state.directory / "blobs").iterdir())
