"""What a device does with a request to measure: what it takes on, what it refuses, and what comes first."""

from __future__ import annotations

import errno
import random
from collections import namedtuple
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from edge_client.inference.slots import FOLDER as MODELS
from edge_client.inference.slots import ModelSlots
from edge_client.measure.agent import FOLDER, Measurer
from edge_client.measure.errors import MeasureError, UnrunnableError
from edge_client.measure.memory import MODEL
from edge_client.session.blobs import BlobStore
from edge_client.session.downloads import Downloads
from edge_client.wire.blobs import CHUNK_BYTES, BlobRef, sha256
from edge_client.wire.errors import WireError
from edge_client.wire.frame import encode
from edge_client.wire.latency import LatencyProgress, LatencyReport, LatencyRequest
from edge_client.wire.measurement import Measurement, MeasurePlan
from edge_client.wire.rollout import ModelHealth, WatchPlan
from edge_client.wire.topics import MESSAGE
from tests.edge_client.agent_cases import NAME, TOPICS, UP, Case, Incoming, release, task
from tests.edge_client.inference_cases import SPEC
from tests.edge_client.measure_cases import measurement

ACTIVE, SENT = b"the active model", b"a file that was sent"
NOW, LATER = 1_000, 2_000


@dataclass
class FakeProcess:
    """Comes to what a test says."""

    model: bytes
    plan: MeasurePlan
    comes_to: Measurement | MeasureError | None = None
    ended: bool = False

    def result(self) -> Measurement | None:
        if isinstance(self.comes_to, MeasureError):
            raise self.comes_to
        return self.comes_to

    def end(self) -> None:
        self.ended = True


@dataclass
class Device:
    """A measurer with a clock and processes that are told what to do."""

    state: Path
    now: float = NOW
    processes: list[FakeProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.blobs = BlobStore(self.state / "blobs")
        self.downloads = Downloads(self.blobs, random.Random(0))
        self.boot()

    def boot(self) -> None:
        self.measurer = Measurer(
            "test", self.state, self.blobs, self.downloads, now=lambda: self.now, start=self.start
        )

    def start(self, model: Path, plan: MeasurePlan) -> FakeProcess:
        self.processes.append(FakeProcess(model.read_bytes(), plan))
        return self.processes[-1]

    def activate(self, model: bytes = ACTIVE, version: int = 3) -> None:
        slots = ModelSlots(self.state / MODELS)
        slots.activate(slots.stage(version, model, SPEC))

    def finish(self, comes_to: Measurement | MeasureError) -> LatencyReport:
        self.processes[-1].comes_to = comes_to
        report = self.measurer.advance(0.0)
        assert isinstance(report, LatencyReport)
        assert self.processes[-1].ended
        return report


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def request(number: int = 7, **fields: Any) -> LatencyRequest:
    return replace(LatencyRequest(fleet="test", number=number, expires=LATER), **fields)


def said(state: str, reason: str = "", number: int = 7) -> LatencyProgress:
    return LatencyProgress(number=number, state=state, reason=reason)  # type: ignore[arg-type]


def refusal(answer: object) -> str:
    assert isinstance(answer, LatencyReport)
    assert (answer.outcome, answer.measurement) == ("refused", None)
    return answer.reason


# ---- what it does ----


def test_the_active_model_is_measured_and_the_answer_survives_a_reboot(device: Device) -> None:
    device.activate()
    plan = MeasurePlan(threads=2, runs=10, within_s=1.0)
    assert device.measurer.on_request(request(plan=plan)) == said("waiting")
    assert device.measurer.wanted is None
    assert device.measurer.advance(0.0) == said("measuring")
    assert device.measurer.advance(0.0) is None
    assert (device.processes[0].model, device.processes[0].plan) == (ACTIVE, plan)
    report = device.finish(measurement(sha256(ACTIVE)))
    assert report.measurement == measurement(sha256(ACTIVE), version=3)
    assert not (device.state / FOLDER / MODEL).exists()
    device.boot()
    assert device.measurer.on_request(request(plan=plan)) == report  # asked again, and not measured again
    assert device.measurer.advance(0.0) is None and len(device.processes) == 1


def test_a_file_that_was_sent_is_fetched_measured_and_removed(device: Device) -> None:
    device.activate()
    ref = BlobRef.of(SENT)
    device.measurer.on_request(request(model=ref))
    assert device.measurer.wanted == ref
    assert device.measurer.advance(0.0) == said("fetching")
    device.downloads.on_chunk(ref.digest, 0, SENT, 0.0)
    assert device.measurer.advance(0.0) == said("measuring")
    assert device.processes[0].model == SENT
    report = device.finish(measurement(ref.digest))
    assert report.measurement is not None and report.measurement.version == 0
    assert not device.blobs.has(ref) and device.measurer.wanted is None


def test_its_own_model_is_not_fetched(device: Device) -> None:
    device.activate()
    device.measurer.on_request(request(model=BlobRef.of(ACTIVE)))
    assert device.measurer.wanted is None
    assert device.measurer.advance(0.0) == said("measuring")


def test_a_model_that_was_its_own_when_it_was_asked_is_fetched_after_a_release(device: Device) -> None:
    device.activate()
    device.measurer.on_request(request(model=BlobRef.of(ACTIVE)), "a release is on its way")
    device.activate(b"the next one", 4)
    assert device.measurer.advance(0.0) == said("fetching")
    assert device.measurer.wanted == BlobRef.of(ACTIVE)


def test_work_comes_first_and_the_measurement_begins_again_after_it(device: Device) -> None:
    device.activate()
    device.measurer.on_request(request())
    device.measurer.advance(0.0)
    assert device.measurer.advance(0.0, "it has a task: train") == said("waiting", "it has a task: train")
    assert device.processes[0].ended
    assert device.measurer.advance(0.0, "it has a task: train") is None  # said once
    assert device.measurer.on_request(request()) == said("waiting", "it has a task: train")
    assert device.measurer.advance(0.0) == said("measuring")
    assert len(device.processes) == 2


def test_a_newer_request_takes_the_place_of_an_older_one(device: Device) -> None:
    device.activate()
    device.measurer.on_request(request(7, model=BlobRef.of(SENT)))
    device.measurer.advance(0.0)
    assert device.downloads.next_due() is not None
    device.measurer.on_request(request(8))
    assert device.downloads.next_due() is None  # nothing of the older one is asked for any more
    assert device.measurer.advance(0.0) == said("measuring", number=8)


def test_the_process_ends_with_the_agent(device: Device) -> None:
    device.activate()
    with device.measurer:
        device.measurer.on_request(request())
        device.measurer.advance(0.0)
    assert device.processes[0].ended


# ---- what it refuses ----


def test_another_fleets_request_is_ignored(device: Device) -> None:
    with pytest.raises(WireError, match="latency request of fleet other"):
        device.measurer.on_request(request(fleet="other"))


def test_an_expired_request_is_refused(device: Device) -> None:
    device.activate()
    device.now = LATER + 5
    assert "expired 5 s ago" in refusal(device.measurer.on_request(request()))
    assert device.measurer.advance(0.0) is None


def test_a_request_that_expires_while_it_waits_is_refused(device: Device) -> None:
    device.activate()
    device.measurer.on_request(request())
    busy = "it has a task: train"
    device.measurer.advance(0.0, busy)
    device.now = LATER + 1
    reason = refusal(device.measurer.advance(0.0, busy))
    assert reason == "expired before it could be measured: it has a task: train"


def test_a_clock_that_stands_in_the_past_does_not_keep_it_waiting_for_ever(device: Device) -> None:
    ref = BlobRef.of(SENT)
    device.measurer.on_request(request(model=ref, left_s=600))
    assert device.measurer.advance(50.0) == said("fetching")
    assert device.measurer.advance(649.0) is None
    device.measurer.on_request(request(model=ref, left_s=100))  # sent again; it was long on its way before
    assert device.measurer.advance(649.5) is None
    assert refusal(device.measurer.advance(650.5)) == "expired before it could be measured: fetching"
    assert device.downloads.next_due() is None  # nobody is asked for the file any more


def test_of_a_file_that_came_in_part_only_nothing_is_left(device: Device) -> None:
    data = bytes(range(256)) * (CHUNK_BYTES // 128)
    ref = BlobRef.of(data)
    device.measurer.on_request(request(model=ref))
    assert device.measurer.advance(0.0) == said("fetching")
    device.downloads.on_chunk(ref.digest, 0, data[:CHUNK_BYTES], 0.0)
    assert list(device.blobs.path("").rglob("0"))
    device.now = LATER + 1
    assert "expired" in refusal(device.measurer.advance(0.0))
    assert list(device.blobs.path("").iterdir()) == []


@pytest.mark.parametrize("whole", [True, False])
def test_a_restart_leaves_nothing_of_a_file_that_was_sent(device: Device, whole: bool) -> None:
    sent = SENT if whole else bytes(2 * CHUNK_BYTES)
    ref = BlobRef.of(sent)
    device.measurer.on_request(request(model=ref))
    device.measurer.advance(0.0)
    device.downloads.on_chunk(ref.digest, 0, sent[:CHUNK_BYTES], 0.0)
    assert any((device.state / "blobs").iterdir())
    device.boot()
    assert not any((device.state / "blobs").iterdir())
    assert device.measurer.on_request(request(model=ref)) == said("waiting")  # the server asks until it hears


def test_a_restart_leaves_nothing_of_its_own_model(device: Device) -> None:
    device.activate()
    device.measurer.on_request(request())
    device.measurer.advance(0.0)
    assert (device.state / FOLDER / MODEL).exists()
    device.boot()
    assert not (device.state / FOLDER / MODEL).exists()


def test_a_replayed_request_is_refused_once(device: Device) -> None:
    device.activate()
    device.measurer.on_request(request(7))
    device.measurer.advance(0.0)
    device.finish(measurement(sha256(ACTIVE)))
    assert "a replay: request 6, this device has seen 7" in refusal(device.measurer.on_request(request(6)))
    assert device.measurer.on_request(request(6)) is None
    device.boot()
    assert "a replay" in refusal(device.measurer.on_request(request(6)))
    assert len(device.processes) == 1


def test_without_a_model_there_is_nothing_to_measure(device: Device) -> None:
    assert "it has no model yet" in refusal(device.measurer.on_request(request()))


def test_a_file_without_room_is_refused_before_it_is_fetched(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("edge_client.measure.agent.shutil.disk_usage", lambda _: usage(3 * len(SENT) - 1))
    reason = refusal(device.measurer.on_request(request(model=BlobRef.of(SENT))))
    assert reason == f"no room: {3 * len(SENT) - 1} bytes are free, {3 * len(SENT)} are asked for"
    assert device.measurer.wanted is None


@pytest.mark.parametrize(
    ("problem", "outcome"),
    [(UnrunnableError("it needs FlexInv"), "refused"), (MeasureError("it crashes the runtime"), "failed")],
)
def test_a_model_that_cannot_be_measured_is_said_and_remembered(
    device: Device, problem: MeasureError, outcome: str
) -> None:
    device.activate()
    device.measurer.on_request(request())
    device.measurer.advance(0.0)
    report = device.finish(problem)
    assert (report.outcome, report.reason, report.measurement) == (outcome, str(problem), None)
    assert device.measurer.on_request(request()) == report


def test_figures_of_another_file_are_not_believed(device: Device) -> None:
    ref = device.blobs.put(SENT)
    device.measurer.on_request(request(model=ref))
    device.measurer.advance(0.0)
    assert device.finish(measurement("1" * 64)).reason == "the file was damaged on the disk"


def test_a_disk_that_is_full_decides_nothing_and_it_is_measured_again(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.activate()
    device.measurer.on_request(request())
    device.measurer.advance(0.0)
    device.processes[-1].comes_to = measurement(sha256(ACTIVE))
    with monkeypatch.context() as patch:
        patch.setattr("edge_client.measure.memory.write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            device.measurer.advance(0.0)
    assert device.measurer.advance(0.0) is None  # said already; a new child is at it
    assert len(device.processes) == 2
    assert device.finish(measurement(sha256(ACTIVE))).outcome == "measured"


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# ---- in the agent ----


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    case = Case(tmp_path, monkeypatch)
    case.step(UP)
    return case


def started(case: Case) -> list[FakeProcess]:
    """The agent's processes from now on."""
    processes: list[FakeProcess] = []

    def start(model: Path, plan: MeasurePlan) -> FakeProcess:
        processes.append(FakeProcess(model.read_bytes(), plan))
        return processes[-1]

    case.agent._measurer._start, case.agent._measurer._now = start, lambda: NOW
    return processes


def answers(messages: list[Any]) -> list[Any]:
    return [each for each in messages if isinstance(each, LatencyProgress | LatencyReport)]


def test_an_agent_fetches_measures_and_reports(case: Case) -> None:
    processes, ref = started(case), BlobRef.of(SENT)
    assert answers(case.step(request(model=ref))) == [said("waiting"), said("fetching")]
    case.answer_requests(SENT)
    assert processes[0].model == SENT
    processes[0].comes_to = measurement(ref.digest)
    [report] = answers(case.step(seconds=1.0))
    assert report == LatencyReport(number=7, outcome="measured", measurement=measurement(ref.digest))


def test_a_task_that_comes_while_it_measures_ends_the_child(case: Case) -> None:
    processes = started(case)
    case.agent._blobs.put(SENT)
    case.step(request(model=BlobRef.of(SENT)))
    assert len(processes) == 1
    assert answers(case.step(task(1))) == [said("waiting", "it has a task: evaluate")]
    assert processes[0].ended
    assert case.agent._measurer.wanted is not None  # not swept away with the task's files


def test_the_active_model_is_not_looked_at_while_one_is_measured(case: Case) -> None:
    """Both would be slower than they are: the figures, and the answers of a rollout's canary."""
    processes = started(case)
    watch = WatchPlan(seconds=100.0, every_s=10.0)
    frame = encode(release(4, watch=watch), topic="x", signer=case._signer)
    slots = case.agent._aftercare._slots
    slots.activate(slots.stage(4, b"no model", SPEC, manifest=frame))
    case.agent._blobs.put(SENT)
    case.step(request(model=BlobRef.of(SENT)))
    case.agent._aftercare.begin(case.clock.now)
    assert not [message for message in case.steps(30) if isinstance(message, ModelHealth)]
    assert case.agent._sleep_s() > 0.5  # nor asked every moment whether it may
    processes[0].comes_to = measurement(sha256(SENT))
    said = [type(message) for message in case.step()]
    assert said == [LatencyReport, ModelHealth]


def test_unsigned_requests_are_ignored(case: Case) -> None:
    started(case)
    payload = encode(request())
    incoming = Incoming(TOPICS.down(NAME, MESSAGE), payload, False, lambda: None, case.clock.now)
    case.session.inbox.append(incoming)
    assert answers(case.step()) == []


def test_a_request_for_another_device_is_worth_nothing_here(case: Case) -> None:
    topic = TOPICS.down("pi-2", MESSAGE)
    payload = encode(request(), topic=topic, signer=case._signer)
    incoming = Incoming(TOPICS.down(NAME, MESSAGE), payload, False, lambda: None, case.clock.now)
    case.session.inbox.append(incoming)
    assert answers(case.step()) == []
