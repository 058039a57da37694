"""Calibration, pruning and fake quantisation as parts of whole runs: what is trained is what is released."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker_server.config import AT_ONCE, CodecConfig, ModelConfig, RangesConfig, ReleaseConfig
from broker_server.report.calibration_grid import calibration_grid
from broker_server.report.schema import RunReport
from broker_server.results import RunFacts, build_report
from broker_server.rollout.registry import MODELS
from compression.size_report import size_report
from compression.sparsity import sparsity_after, zero_share
from compression.spec import weights_digest
from edge_client.session.blobs import BlobStore
from edge_client.state import DeviceState
from tests.integration.in_process import DEVICES, Outcome, run_fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FEDERATED = ReleaseConfig(wait_s=30.0, calibration="federated")
RELEASED: dict[str, Any] = {"release": FEDERATED, "rollout": AT_ONCE}
CLASSES = ("malignant", "benign")


def report_of(outcome: Outcome) -> RunReport:
    server = outcome.server
    return build_report(server.stages, server.config, RunFacts("wisconsin", "embedded", 0.0))


def released_file(outcome: Outcome) -> bytes:
    (record,) = outcome.server._rollout.registry.all()
    return BlobStore(Path(outcome.server.config.state) / MODELS).read(record.release.model)


def test_the_devices_calibrate_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = RangesConfig(examples=50, clip_percent=0.5, noise=0.01)
    release = replace(FEDERATED, ranges=told)
    outcome = run_fleet(tmp_path, monkeypatch, **(RELEASED | {"release": release}))
    report = report_of(outcome)
    figures = report.calibration
    assert figures is not None and (figures.asked, figures.used) == ("federated", "federated")
    assert figures.devices == {f"device-{n}": 50 for n in range(1, DEVICES + 1)}
    assert (figures.clip_percent, figures.noise, figures.missing) == (0.5, 0.01, {})
    assert report.model.int8_calibration == "full-integer" and report.incidents == ()
    assert all(client.gate.verdict == "activated" for client in report.clients)
    rows = {each.how: each for each in figures.compared}
    assert list(rows) == ["federated", "server", "none"]
    assert rows["federated"].accuracy == pytest.approx(rows["server"].accuracy, abs=0.03)
    assert rows["federated"].accuracy == report.final.int8_accuracy
    grid = calibration_grid(report)
    assert [row[1] for row in grid.rows] == ["yes", "-", "-"]
    assert "150 examples of 3 devices, 0.5 % clipped" in grid.note


def test_devices_without_the_memory_leave_it_to_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_client.calibrating.SPARE_MB", 1e9)
    report = report_of(run_fleet(tmp_path, monkeypatch, **RELEASED))
    figures = report.calibration
    assert figures is not None and (figures.asked, figures.used) == ("federated", "server")
    assert sorted(figures.missing) == [f"device-{n}" for n in range(1, DEVICES + 1)]
    assert all("MB of memory" in why for why in figures.missing.values())
    assert any(i.who == "calibration" and "0 of the 2 devices" in i.what for i in report.incidents)
    assert report.model.int8_calibration == "full-integer"


def test_a_program_that_is_too_large_to_send_does_not_cost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = replace(FEDERATED, ranges=RangesConfig(max_program_mb=0.001))
    report = report_of(run_fleet(tmp_path, monkeypatch, **(RELEASED | {"release": release})))
    assert report.calibration is not None and report.calibration.used == "server"
    (incident,) = report.incidents
    assert incident.who == "calibration" and "max_program_mb (0.001)" in incident.what


def test_what_is_released_is_pruned_and_int8_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the codec that loses most, both ways, and a server that begins again after two rounds."""
    model = ModelConfig(
        name="small_mlp", kind="table", classes=CLASSES, optimizer="sgd", sparsity=0.8, fake_int8=True
    )
    codec = CodecConfig(up="tiny", down="tiny")
    outcome = run_fleet(
        tmp_path, monkeypatch, model=model, codec=codec, rounds={"rounds": 6}, restart_after=2, **RELEASED
    )
    report, stages = report_of(outcome), outcome.server.stages
    asked = [sparsity_after(n, 6, 0.8, "polynomial", 0.3, 0.8) for n in range(1, 7)]
    assert [entry.sparsity for entry in report.rounds] == pytest.approx(asked, abs=2e-3)
    assert zero_share(stages.versions.weights, stages.bundle.spec.tensors) == pytest.approx(0.8, abs=2e-3)
    assert weights_digest(stages.versions.weights) == stages.versions.latest.digest
    for device in range(1, DEVICES + 1):
        memory = DeviceState(outcome.state_of(device)).memory
        assert memory.weights_digest == stages.versions.latest.digest
    released = size_report(released_file(outcome))
    assert released.calibration == "full-integer"
    kernels = [t for layer in released.layers for t in layer.tensors if t.type == "int8" and len(t.shape) > 1]
    share = sum(t.zeros for t in kernels) / sum(t.bytes for t in kernels)
    assert share == pytest.approx(0.8, abs=2e-3)
    assert report.model.int8_zipped_bytes == released.zipped_bytes
    assert report.settings["sparsity"] == "0.8, polynomial from 0.3 to 0.8 of the rounds"
    assert report.settings["fake quantisation"] == "int8"
    assert outcome.accuracy >= 0.85
