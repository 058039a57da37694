"""The stage in which devices measure ranges, on the server's side: what is asked, taken, merged and kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from broker_server.calibrating import PLAN, PlanRecord
from broker_server.calibration import CalibrationError, read_report
from broker_server.config import DataConfig, ModelConfig, ReleaseConfig, ServerConfig, chosen_calibration
from broker_server.frozen import EXTRACTOR
from broker_server.rounds.machine import CloseStage, Stage
from broker_server.run_plan import stages_of
from broker_server.strategies.fedper import FedPer
from compression.records import RecordError, dumps
from edge_client.extractors import put_extractor
from edge_client.wire.blobs import BlobRef
from edge_client.wire.ranges import ActivationRanges, RangesPlan
from tests.broker_server.test_intake import NAMES, Desk, sums

PROGRAM = b"a program that is only stored"
TENSORS = (0, 4, 7)
CALIBRATE = Stage("calibrate", 3)


class Calibration(Desk):
    """A desk with the stage at work. Making the program needs TensorFlow: it is made already."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        versions, artefacts = self.stages.versions, self.stages.artefacts
        self.plan = RangesPlan(program=artefacts.put(PROGRAM), tensors=TENSORS, examples=20)
        record = PlanRecord(versions.latest.digest, self.plan)
        self.stages.ledger.set_fact(PLAN, dumps(record).decode())
        self.stages.ledger.set_fact("stages_closed", str(stages_of(self.config).index(CALIBRATE)))
        self.task = self.stages.make_task(CALIBRATE, NAMES, ())

    def report(self, low: float = -1.0, high: float = 1.0, **changes: object) -> ActivationRanges:
        n = len(TENSORS)
        report = ActivationRanges(self.plan.program.digest, TENSORS, (low,) * n, (high,) * n, 20)
        return replace(report, **changes)  # type: ignore[arg-type]

    def tell_ranges(self, device: str, payload: bytes, **changes: object) -> None:
        self.send(device, payload, **({"training": None} | changes))

    def close(self, **dropped: str) -> None:
        command = CloseStage(CALIBRATE, self.task.number, tuple(self.stages.ledger.results(4)), dropped)
        self.stages.close(command, {}, 0, 1.0)


@pytest.fixture
def desk(tmp_path: Path) -> Calibration:
    return Calibration(tmp_path)


def test_the_task_names_the_program_and_devices_are_sent_it(desk: Calibration) -> None:
    assert desk.task.kind == "calibrate" and desk.task.ranges == desk.plan
    assert desk.task.weights is None  # nobody needs them for it
    assert desk.stages.broadcast(desk.task) == [desk.plan.program]


def test_a_transfer_models_devices_keep_its_extractor_for_the_release(desk: Calibration) -> None:
    manifest = put_extractor(desk.stages.artefacts, b"a frozen network")
    desk.stages.ledger.set_fact(EXTRACTOR, dumps(manifest).decode())
    task = desk.stages.make_task(CALIBRATE, NAMES, ())
    assert task.extractor == manifest  # a device removes what neither task nor release names


def test_the_widest_of_the_reports_is_kept_with_the_names_of_who_took_part(desk: Calibration) -> None:
    for device, high in zip(NAMES, (1.0, 2.0, 3.0), strict=True):
        desk.tell_ranges(device, dumps(desk.report(high=high)))
        assert desk.receipt().accepted
    desk.close()
    digest = desk.stages.versions.latest.digest
    record = desk.stages.calibrating.ranges(digest)
    assert record is not None and record.devices == dict.fromkeys(NAMES, 20) and record.missing == {}
    merged = desk.stages.calibrating.merged(digest)
    assert merged is not None
    program, ranges = merged
    assert (program.tflite, program.tensors) == (PROGRAM, TENSORS)
    assert ranges == dict.fromkeys(TENSORS, (-1.0, 3.0))
    assert desk.stages.calibrating.merged("0" * 64) is None  # of other weights nothing was told
    assert desk.stages.index == 5


def test_a_device_that_lies_does_not_make_the_scales_coarse(desk: Calibration) -> None:
    for device, bound in zip(NAMES, (1.0, 1.0, 1e30), strict=True):
        desk.tell_ranges(device, dumps(desk.report(-bound, bound)))
    desk.close()
    merged = desk.stages.calibrating.merged(desk.stages.versions.latest.digest)
    assert merged is not None and merged[1] == dict.fromkeys(TENSORS, (-8.0, 8.0))


def test_with_too_few_reports_there_are_no_ranges_and_the_report_says_so(desk: Calibration) -> None:
    desk.tell_ranges("pi-1", dumps(desk.report()))
    desk.close(**{"pi-2": "away"})
    digest = desk.stages.versions.latest.digest
    record = desk.stages.calibrating.ranges(digest)
    assert record is not None and record.merged is None
    assert (record.devices, record.missing) == ({"pi-1": 20}, {"pi-2": "away"})
    assert desk.stages.calibrating.merged(digest) is None
    (incident,) = desk.stages.ledger.incidents()
    assert incident.who == "calibration" and "1 of the 2 devices needed" in incident.what


def test_a_restarted_server_asks_with_the_same_program_and_has_the_answers(
    desk: Calibration, tmp_path: Path
) -> None:
    desk.tell_ranges("pi-1", dumps(desk.report()))
    desk.stages.finish(None)
    desk.stages.ledger.close()
    again = type(desk.stages)(desk.config)
    state = again.resume(0.0)
    assert state.stage == CALIBRATE and state.reported == {"pi-1"} and state.phase == "working"
    assert again.make_task(CALIBRATE, NAMES, ()).ranges == desk.plan
    assert again.artefacts.read(desk.plan.program) == PROGRAM


OTHER = "f" * 64
BAD = {
    "nonsense": (lambda _: b"nonsense", {}),
    "another program": (lambda d: dumps(d.report(program=OTHER)), {}),
    "other tensors": (lambda d: dumps(d.report(tensors=(0, 4, 8))), {}),
    "more examples than asked": (lambda d: dumps(d.report(examples=21)), {}),
    "a bound that is not finite": (
        lambda d: dumps(d.report()).replace(b"1.0", b"Infinity"),
        {},
    ),
    "a bound beyond all numbers": (lambda d: dumps(d.report()).replace(b"1.0", b"1e31"), {}),
    "too long": (lambda d: b" " * (d.plan.max_report_bytes + 1), {}),
    "no payload": (lambda _: b"", {}),
    "an evaluation with it": (lambda d: dumps(d.report()), {"evaluation": sums()}),
}


@pytest.mark.parametrize("what", BAD)
def test_what_no_device_can_have_measured_is_refused(desk: Calibration, what: str) -> None:
    payload, changes = BAD[what]
    desk.tell_ranges("pi-1", payload(desk), **changes)
    assert not desk.receipt().accepted
    assert desk.stages.ledger.results(4) == {} and [name for name, _ in desk.failures] == ["pi-1"]


def test_a_range_that_ends_below_its_beginning_is_no_report() -> None:
    plan = RangesPlan(program=BlobRef.of(PROGRAM), tensors=(1,))
    text = dumps(ActivationRanges(plan.program.digest, (1,), (0.0,), (1.0,), 1))
    assert read_report(plan, text).high == (1.0,)
    with pytest.raises(RecordError, match="ends below"):
        read_report(plan, text.replace(b'"high":[1.0]', b'"high":[-1.0]'))
    with pytest.raises(CalibrationError, match="program"):
        read_report(replace(plan, program=replace(plan.program, digest=OTHER)), text)


def test_where_ranges_come_from_by_the_settings() -> None:
    config = ServerConfig(fleet="f")
    own = replace(config, data=DataConfig(calibration="folder:few"))
    assert chosen_calibration(config) == "federated" and chosen_calibration(own) == "server"
    assert stages_of(config)[-1].kind == "calibrate" and stages_of(own)[-1].kind == "evaluate"
    asked = replace(own, release=ReleaseConfig(calibration="federated"))
    assert stages_of(asked)[-1].kind == "calibrate"
    for release in (ReleaseConfig(recipe="dynamic"), ReleaseConfig(enabled=False)):
        assert stages_of(replace(config, release=release))[-1].kind == "evaluate"
    with pytest.raises(RecordError, match="needs examples here"):
        replace(config, release=ReleaseConfig(calibration="server"))


def test_what_is_trained_must_be_what_is_shipped() -> None:
    config = ServerConfig(fleet="f")
    with pytest.raises(RecordError, match="fake_int8 trains for an int8 file"):
        replace(config, model=ModelConfig(fake_int8=True), release=ReleaseConfig(recipe="dynamic"))
    with pytest.raises(RecordError, match="stay on the devices"):
        replace(
            config, model=ModelConfig(sparsity=0.5), strategy=FedPer(), release=ReleaseConfig(enabled=False)
        )
    with pytest.raises(RecordError, match="the head alone"):
        replace(config, model=ModelConfig(name="mobilenet_v2@random", sparsity=0.5))
