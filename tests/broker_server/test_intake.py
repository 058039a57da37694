"""The way in for results: what is accepted, what is refused, and that nothing in it can stop the server."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker_server import clock, traffic
from broker_server.checks import RefusedError
from broker_server.config import CodecConfig, ModelConfig, RoundsConfig, ServerConfig
from broker_server.errors import RunError
from broker_server.ingest import Intake
from broker_server.records import ClientRecord, RoundRecord
from broker_server.results import RunFacts, build_report
from broker_server.rounds.machine import CloseStage, Reported, Stage
from broker_server.run_program import RunProgram
from broker_server.stages import Stages
from broker_server.uploads import SLOT_TIMEOUT_S, SLOTS, Uploads
from compression.spec import ImageInput, ModelSpec, TensorSpec, TrainableBundle
from compression.updates import PROFILES, encode_update
from edge_client.inference.likeness import feature_count, moments
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.wire.blobs import CHUNK_BYTES, BlobRef, split
from edge_client.wire.calibration import TEMPERATURES, CalibrationSums
from edge_client.wire.chunks import Chunk, Grant
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.fields import Message
from edge_client.wire.presence import Health, Hello
from edge_client.wire.rounds import Receipt, Result, Task, TrainingReport
from edge_client.wire.summary import DataSummary

SPEC = ModelSpec("m", ImageInput(8, 8), ("a", "b"), (TensorSpec("w", (40, 30)), TensorSpec("b", (30,))))
HEALTH = Health(peak_rss_mb=1.0, free_memory_mb=1.0, free_disk_mb=1.0)
NAMES = ("pi-1", "pi-2", "pi-3")


def hello(examples: int = 50) -> Hello:
    data = DataSummary(kind="image", counts={"a": examples, "b": 0}, validation_examples=10)
    return Hello(
        session="0" * 16, version="", architecture="", board="", python="", runtime="", cores=1,
        memory_mb=1.0, data=data, health=HEALTH,
    )  # fmt: skip


class Desk:
    """An intake over a real ledger, with a list in place of the network."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        rounds = RoundsConfig(rounds=3, **settings.pop("rounds", {}))
        model = ModelConfig(classes=("a", "b"), optimizer="sgd")
        config = ServerConfig(fleet="f", state=str(folder), model=model, rounds=rounds)
        self.config = replace(config, **settings)
        self.stages = Stages(self.config)
        bundle = TrainableBundle(SPEC, b"program")
        ref = self.stages.artefacts.put(bundle.to_bytes())
        with self.stages.ledger.transaction():
            self.stages.ledger.set_fact("bundle", ref.digest)
            self.stages.program._adopt(bundle, ref)
            self.stages.versions.begin({t.name: np.zeros(t.shape, np.float32) for t in SPEC.tensors})
            self.stages.aggregation.state.begin()
        for name in NAMES:
            self.stages.ledger.keep_hello(name, hello(), clock.now())
        self.sent: list[tuple[str, Message]] = []
        self.failures: list[tuple[str, str]] = []
        self.uploads = Uploads(BlobStore(folder / "incoming"), self.tell)
        self.intake = Intake(
            self.stages, self.uploads, self.tell, lambda *_: None, lambda *f: self.failures.append(f)
        )
        self.task = self.stages.make_task(Stage("train", 1), NAMES, ())

    def tell(self, device: str, message: Message) -> None:
        self.sent.append((device, message))

    def receipt(self) -> Receipt:
        message = self.sent[-1][1]
        assert isinstance(message, Receipt)
        return message

    def payload(self, value: float = 0.5, round_number: int = 1, profile: str = "lossless") -> bytes:
        assert self.task.bundle
        delta = {t.name: np.full(t.shape, value, np.float32) for t in SPEC.tensors}
        encoded = encode_update(
            delta, PROFILES[profile], model_digest=self.task.bundle.digest, round_number=round_number
        )
        return encoded.payload

    def result(self, payload: bytes | None, task: Task | None = None, **changes: Any) -> Result:
        training = TrainingReport(examples=10, steps=1, loss=0.5, seconds=0.1, base_version=0)
        result = Result(
            task=(task or self.task).number,
            status="done",
            payload=BlobRef.of(payload) if payload else None,
            training=training,
        )
        return replace(result, **changes)

    def send(self, device: str, payload: bytes, **changes: Any) -> Reported | None:
        return self.offer(device, self.result(payload, **changes), payload)

    def offer(self, device: str, result: Result, body: bytes) -> Reported | None:
        self.intake.on_result(device, result, body, clock.now())
        return self.settle()

    def chunk(self, device: str, chunk: Chunk, data: bytes) -> Reported | None:
        self.intake.on_chunk(device, chunk, data, clock.now())
        return self.settle()

    def settle(self) -> Reported | None:
        """What came of one result."""
        events = self.intake.settle()
        assert len(events) <= 1
        return events[0] if events else None


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def sums(classes: int = 2, count: int = 10, loss: float = 3.0) -> EvaluationSums:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(classes), count)
    return EvaluationSums.of(rng.integers(0, classes, count), scores, loss)


def test_a_good_update_counts_once_however_often_it_is_offered(desk: Desk) -> None:
    payload = desk.payload()
    assert desk.send("pi-1", payload) == Reported("pi-1")
    assert desk.receipt().accepted
    assert desk.send("pi-1", payload) is None
    assert desk.receipt().accepted  # the receipt may have been lost
    assert list(desk.stages.ledger.results(0)) == ["pi-1"]


def test_another_update_of_the_same_task_is_not_taken_for_the_first(desk: Desk) -> None:
    desk.send("pi-1", desk.payload(0.5))
    assert desk.send("pi-1", desk.payload(0.7)) is None
    assert not desk.receipt().accepted


BAD = {
    "another round": lambda d: (d.payload(round_number=2), {}),
    "not an update": lambda _: (b"nonsense", {}),
    "a huge step": lambda d: (d.payload(3e38), {}),
    "no training report": lambda d: (d.payload(), {"training": None}),
    "evaluation of other classes": lambda d: (d.payload(), {"evaluation": sums(classes=3)}),
    "evaluation without scores": lambda d: (
        d.payload(),
        {"evaluation": EvaluationSums(1.0, (5, 0, 0, 5))},
    ),
    "evaluation of too many": lambda d: (
        d.payload(),
        {"evaluation": EvaluationSums(1.0, (1 << 40, 0, 0, 0), (0, 1 << 40, 0))},
    ),
    "an endless loss": lambda d: (d.payload(), {"evaluation": sums(loss=1.7e308)}),
    "a negative loss": lambda d: (d.payload(), {"evaluation": sums(loss=-5.0)}),
    "a training loss that would stop the choice of cohorts": lambda d: (
        d.payload(),
        {"training": TrainingReport(examples=10, steps=1, loss=1e306, seconds=0.1, base_version=0)},
    ),
    "calibration sums of a training task": lambda d: (d.payload(), {"calibration": CalibrationSums()}),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_result_is_refused_and_said_once(desk: Desk, kind: str) -> None:
    payload, changes = BAD[kind](desk)
    event = desk.send("pi-1", payload, **changes)
    assert event is not None and event.problem
    assert not desk.receipt().accepted and desk.receipt().reason
    assert desk.send("pi-1", payload, **changes) is None
    assert len(desk.failures) == 1
    assert desk.stages.ledger.results(0) == {}
    assert desk.stages.ledger.failures(desk.task.number).keys() == {"pi-1"}


def calibration(spread: float = 1.0, features: int = 0, loss: float = 1.0) -> CalibrationSums:
    """Of 40 training examples whose features are `spread` apart, and of 10 validation examples."""
    size = features or feature_count(SPEC.input)
    described = spread * np.random.default_rng(0).random((40, size))
    return replace(moments(described), examples=10, losses=(10 * loss,) * len(TEMPERATURES))


def test_calibration_sums_of_some_examples_are_taken(desk: Desk) -> None:
    desk.task = desk.stages.make_task(Stage("evaluate", 1), NAMES, ())
    taken = desk.result(None, training=None, evaluation=sums(), calibration=calibration())
    assert desk.offer("pi-1", taken, b"") == Reported("pi-1")


NO_EXAMPLES = {
    "features of another model": calibration(features=3),
    "larger features than any example has": calibration(spread=1e3),
    "a loss that outweighs the fleet": calibration(loss=1e9),
    "more examples than the evaluation": replace(calibration(), examples=11),
    "more examples than are described": replace(calibration(), seen=1 << 40),
    "no covariance": replace(calibration(), products=(0.0,) * len(calibration().products)),
}


@pytest.mark.parametrize("kind", NO_EXAMPLES)
def test_calibration_sums_that_no_examples_have_are_refused(desk: Desk, kind: str) -> None:
    desk.task = desk.stages.make_task(Stage("evaluate", 1), NAMES, ())
    false = desk.result(None, training=None, evaluation=sums(), calibration=NO_EXAMPLES[kind])
    event = desk.offer("pi-1", false, b"")
    assert event is not None and event.problem is not None and "calibration" in event.problem


def test_a_body_that_the_result_does_not_name_is_refused(desk: Desk) -> None:
    payload = desk.payload()
    desk.offer("pi-1", desk.result(None), payload)
    assert "not the one" in desk.receipt().reason
    desk.offer("pi-2", desk.result(payload), desk.payload(0.9))
    assert "not the one" in desk.receipt().reason


def test_an_update_without_a_payload_does_not_fill_the_quorum(desk: Desk) -> None:
    event = desk.offer("pi-1", desk.result(None), b"")
    assert event is not None and event.problem


def test_strangers_and_old_tasks_change_nothing(desk: Desk) -> None:
    payload = desk.payload()
    assert desk.send("pi-9", payload) is None
    assert not desk.receipt().accepted
    older = replace(desk.task, number=desk.task.number - 1)
    assert desk.offer("pi-1", desk.result(payload, task=older), payload) is None
    assert desk.stages.ledger.results(0) == {}


def test_a_result_of_an_earlier_try_of_the_stage_counts(desk: Desk) -> None:
    first = desk.task
    desk.stages.ledger.close_task(first.number)
    desk.task = desk.stages.make_task(Stage("train", 1), NAMES, ())
    assert desk.task.number > first.number
    payload = desk.payload()
    assert desk.offer("pi-1", desk.result(payload, task=first), payload) == Reported("pi-1")
    assert desk.send("pi-1", payload) is None  # of the new task: it counts already
    assert not desk.receipt().accepted


def test_the_mean_is_weighted_and_claims_are_capped(desk: Desk) -> None:
    report = TrainingReport(examples=1 << 40, steps=1, loss=0.5, seconds=0.1, base_version=0)
    desk.send("pi-1", desk.payload(1.0), training=report)  # its hello said 50
    desk.send("pi-2", desk.payload(0.0), training=replace(report, examples=50))
    record = desk.stages.close(
        CloseStage(Stage("train", 1), desk.task.number, ("pi-1", "pi-2"), {}), {}, 0, 0.0
    )
    assert record is not None and record.version == 1
    assert float(desk.stages.versions.weights["w"][0, 0]) == pytest.approx(0.5, abs=0.01)


def test_after_closing_only_what_is_needed_stays_on_disk(desk: Desk, tmp_path: Path) -> None:
    desk.send("pi-1", desk.payload(1.0))
    update = desk.stages.ledger.results(0)["pi-1"].payload
    report = desk.stages.ledger.results(0)["pi-1"].training
    assert update is not None and desk.stages.payloads.read(update) == desk.payload(1.0)
    assert report is not None and desk.stages.aggregation.decoded.of(update, report) is not None
    record = desk.stages.close(CloseStage(Stage("train", 1), desk.task.number, ("pi-1",), {}), {}, 0, 0.0)
    desk.stages.artefacts.put(b"of a version that nobody can step from")
    desk.stages.finish(record)
    assert sorted(path.name for path in (tmp_path / "artefacts").iterdir()) == sorted(
        {desk.stages.bundle_ref.digest, *desk.stages.versions.files()}
    )
    with pytest.raises(BlobError, match="not here"):
        desk.stages.payloads.read(update)
    assert desk.stages.aggregation.decoded.of(update, report) is None
    again = Stages_again(desk)
    assert again.index == 1
    assert again.versions.latest == desk.stages.versions.latest


def test_a_round_is_evaluated_after_it_is_closed_or_after_a_restart(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunProgram, "evaluate", lambda _self, weights: sums(loss=float(weights["w"][0, 0])))
    for number in (1, 2):
        desk.send("pi-1", desk.payload(1.0, number))
        record = desk.stages.close(
            CloseStage(Stage("train", number), desk.task.number, ("pi-1",), {}), {}, 0, 0.0
        )
        assert record is not None and record.evaluation is None
        desk.task = desk.stages.make_task(Stage("train", number + 1), NAMES, ())
        if number == 1:
            record = desk.stages.finish(record)
            assert record is not None and record.evaluation == sums(loss=1.0)
    desk.send("pi-1", desk.payload(1.0, 3))
    update = desk.stages.ledger.results(2)["pi-1"].payload
    again = Stages_again(desk)
    made_up = again.catch_up()
    rounds = again.ledger.rounds(RoundRecord)
    assert made_up == rounds[2] and again.catch_up() is None
    assert [rounds[number].evaluation for number in (1, 2)] == [sums(loss=1.0), sums(loss=2.0)]
    assert update is not None and again.payloads.read(update) == desk.payload(1.0, 3)


def test_where_the_codec_follows_the_evaluation_it_is_there_before_the_next_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, codec=CodecConfig(up="auto", down="medium"))
    monkeypatch.setattr(RunProgram, "evaluate", lambda *_: sums())
    desk.send("pi-1", desk.payload(1.0))
    record = desk.stages.close(CloseStage(Stage("train", 1), desk.task.number, ("pi-1",), {}), {}, 0, 0.0)
    assert record is not None and record.evaluation == sums()


def test_what_devices_send_after_the_last_round_is_no_update(desk: Desk) -> None:
    part = ClientRecord(examples=10, loss=0.5, seconds=0.1, bytes_up=300, bytes_down=20)
    desk.send("pi-1", desk.payload(1.0))
    desk.stages.close(CloseStage(Stage("train", 1), desk.task.number, ("pi-1",), {}), {"pi-1": part}, 0, 0.0)
    desk.task = desk.stages.make_task(Stage("evaluate", 1), NAMES, ())
    closing = replace(part, bytes_up=9_000, bytes_down=70)
    record = desk.stages.close(
        CloseStage(Stage("evaluate", 1), desk.task.number, ("pi-1",), {}), {"pi-1": closing}, 0, 0.0
    )
    assert record is not None
    assert (record.clients["pi-1"].bytes_up, record.clients["pi-1"].bytes_down) == (300, 90)
    report = build_report(desk.stages, desk.config, RunFacts(dataset="d", broker="b", started=clock.now()))
    assert (report.bytes.up_total, report.bytes.closing_up_total) == (300, 9_000)


def Stages_again(desk: Desk) -> Stages:
    """As after a restart."""
    desk.stages.ledger.close()
    return Stages(desk.config)


def test_a_restart_knows_who_reported_and_who_failed(desk: Desk) -> None:
    desk.send("pi-1", desk.payload())
    desk.send("pi-2", b"nonsense")
    state = Stages_again(desk).resume(5.0)
    assert (state.phase, state.number) == ("working", desk.task.number)
    assert state.reported == {"pi-1"}
    assert set(state.failed) == {"pi-2"}
    assert state.outstanding == {"pi-3"}


def test_other_settings_on_resume_are_refused(desk: Desk) -> None:
    desk.stages.ledger.close()
    with pytest.raises(RunError, match="other settings"):
        Stages(replace(desk.config, rounds=RoundsConfig(rounds=9)))


def upload(desk: Desk, device: str, payload: bytes) -> Reported | None:
    """Send what is granted until nothing more is."""
    event = desk.offer(device, desk.result(payload), b"")
    parts = split(payload)
    while event is None and isinstance(grant := desk.sent[-1][1], Grant) and desk.sent[-1][0] == device:
        for index in grant.chunks:
            event = desk.chunk(device, Chunk(blob=grant.blob, index=index), parts[index])
    return event


def big_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Desk, bytes]:
    """A desk whose model is large enough for five chunks."""
    spec = replace(SPEC, tensors=(TensorSpec("w", (160_000,)), TensorSpec("b", (30,))))
    monkeypatch.setitem(globals(), "SPEC", spec)
    desk = Desk(tmp_path)
    rng = np.random.default_rng(0)
    assert desk.task.bundle
    delta = {t.name: rng.normal(size=t.shape).astype(np.float32) for t in spec.tensors}
    encoded = encode_update(delta, PROFILES["lossless"], model_digest=desk.task.bundle.digest, round_number=1)
    assert len(encoded.payload) > 4 * CHUNK_BYTES
    return desk, encoded.payload


def test_a_large_update_comes_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, payload = big_desk(tmp_path, monkeypatch)
    assert upload(desk, "pi-1", payload) == Reported("pi-1")
    assert desk.receipt().accepted
    with pytest.raises(RefusedError, match="not asked for"):
        desk.chunk("pi-1", Chunk(blob=BlobRef.of(payload).digest, index=0), split(payload)[0])


def test_a_large_update_of_the_next_round_is_not_swept_with_those_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, _ = big_desk(tmp_path, monkeypatch)
    desk.send("pi-1", desk.payload(1.0))
    record = desk.stages.close(CloseStage(Stage("train", 1), desk.task.number, ("pi-1",), {}), {}, 0, 0.0)
    desk.task = desk.stages.make_task(Stage("train", 2), NAMES, ())
    following = np.random.default_rng(1).normal(size=160_000).astype(np.float32)
    delta = {"w": following, "b": np.zeros(30, np.float32)}
    digest = desk.stages.bundle_ref.digest
    payload = encode_update(delta, PROFILES["lossless"], model_digest=digest, round_number=2).payload
    desk.send("pi-1", payload)
    desk.stages.finish(record)
    assert desk.stages.artefacts.has(BlobRef.of(payload))


def test_where_rounds_overlap_uploads_that_were_taken_leave_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, payload = big_desk(tmp_path, monkeypatch)
    upload(desk, "pi-1", payload)
    other = payload[:-1] + b"x"
    desk.offer("pi-2", desk.result(other), b"")
    desk.chunk("pi-2", Chunk(blob=BlobRef.of(other).digest, index=0), split(other)[0])
    desk.uploads.tidy()
    assert [path.name for path in (tmp_path / "incoming").iterdir()] == [f"{BlobRef.of(other).digest}.parts"]


def test_an_upload_that_ends_after_the_same_update_came_whole_is_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, payload = big_desk(tmp_path, monkeypatch)
    desk.offer("pi-1", desk.result(payload), b"")
    grant = desk.sent[-1][1]
    assert isinstance(grant, Grant)
    desk.offer("pi-1", desk.result(payload), payload)
    parts = split(payload)
    for index in itertools.chain(grant.chunks, range(4, len(parts))):
        desk.chunk("pi-1", Chunk(blob=grant.blob, index=index), parts[index])
    assert list(desk.stages.ledger.results(0)) == ["pi-1"]


def test_wrong_chunks_and_oversize_offers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, payload = big_desk(tmp_path, monkeypatch)
    desk.offer("pi-1", desk.result(payload), b"")
    with pytest.raises(RefusedError, match="not part of blob"):
        desk.chunk("pi-1", Chunk(blob=BlobRef.of(payload).digest, index=0), b"x")
    event = desk.offer("pi-2", desk.result(bytes(9 * 160_000)), b"")
    assert event is not None and "at most" in str(event.problem)


def test_slots_go_round_and_the_silent_lose_theirs(tmp_path: Path) -> None:
    granted: list[str] = []
    uploads = Uploads(BlobStore(tmp_path), lambda device, _grant: granted.append(device))
    payloads = [bytes([i]) * (2 * CHUNK_BYTES) for i in range(SLOTS + 2)]
    result = Result(task=1, status="done")
    for index, payload in enumerate(payloads):
        assert uploads.offer(f"pi-{index}", result, BlobRef.of(payload), now=0.0) is None
    assert granted == [f"pi-{i}" for i in range(SLOTS)]
    parts = split(payloads[0])
    for index, part in enumerate(parts):
        done = uploads.add_chunk("pi-0", Chunk(blob=BlobRef.of(payloads[0]).digest, index=index), part, 1.0)
    assert done == (result, payloads[0])
    uploads.tick(2.0)
    assert granted[SLOTS:] == [f"pi-{SLOTS}"]
    uploads.tick(SLOT_TIMEOUT_S + 1.5)
    assert granted[SLOTS + 1 :] == [f"pi-{SLOTS + 1}"]


def test_how_long_an_answer_took_is_what_the_server_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what the device says: that decides who is asked again."""
    desk = Desk(tmp_path)
    published = desk.stages.ledger.last_task()
    assert published is not None
    payload = desk.payload()
    for device, later, claimed in (("pi-1", 7.0, 0.01), ("pi-2", 9.0, 1e6)):
        monkeypatch.setattr(clock, "now", lambda later=later: published.published + later)
        report = TrainingReport(examples=10, steps=1, loss=0.5, seconds=claimed, base_version=0)
        assert desk.send(device, payload, training=report) is not None
    answered = desk.stages.ledger.answer_times(0)
    assert answered == {"pi-1": pytest.approx(7.0), "pi-2": pytest.approx(9.0)}
    for device, seconds in (("pi-1", 0.01), ("pi-2", 9.0)):  # it cannot have trained for longer than that
        result = desk.stages.ledger.results(0)[device]
        record = traffic._record(result, 1, 1, 0, answered[device])
        assert (record.seconds, record.answered_s) == (pytest.approx(seconds), answered[device])
