"""Installing a release: whatever goes wrong, the model before it answers, and the way back is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from compression.records import RecordError
from compression.updates import pack_model
from edge_client.inference.gate import GateVerdict
from edge_client.releases import Installer
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.state import DeviceState
from edge_client.wire.messages import Release, ReleaseReport
from tests.edge_client.agent_cases import SPEC, WEIGHTS, bundle_of, release


class FakeWorkshop:
    """Opens any bundle; evaluates nothing."""

    failure: Exception | None = None

    def open(self, _ref: object) -> tuple[SimpleNamespace, None]:
        if self.failure:
            raise self.failure
        return SimpleNamespace(spec=SPEC, set_weights=lambda _: None), None

    def weights(self, _ref: object, _spec: object) -> None: ...

    def evaluate(self, _trainer: object, _data: object) -> None: ...


class Device:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = DeviceState(directory)
        self.blobs = BlobStore(directory / "blobs")
        self.workshop = FakeWorkshop()
        self.gated: list[bytes] = []
        self.verdict = GateVerdict(True, "good")
        self.installer = Installer(self.state, self.blobs, self.workshop)  # type: ignore[arg-type]
        monkeypatch.setattr("edge_client.releases.run_gate", self._gate)

    def _gate(self, model: bytes, *_: object, **__: object) -> GateVerdict:
        self.gated.append(model)
        return self.verdict

    def install(self, version: int, model: bytes) -> ReleaseReport:
        return self.installer.install(self.offer(version, model))

    def offer(self, version: int, model: bytes) -> Release:
        for data in (model, bundle_of(), pack_model(WEIGHTS)):
            self.blobs.put(data)
        return release(version, model)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path / "state", monkeypatch)


def test_a_release_that_is_active_already_is_reported_and_not_installed_again(device: Device) -> None:
    device.install(1, b"first")
    device.install(2, b"second")  # and then the power went before it was remembered
    report = device.install(2, b"second")
    assert (report.outcome, report.active_version) == ("activated", 2)
    assert device.gated == [b"first", b"second"]
    previous = device.installer._slots.previous()
    assert previous is not None
    assert previous.tflite == b"first"


def test_the_same_version_of_another_model_is_another_release(device: Device) -> None:
    device.install(1, b"of a fleet that was set up again")
    device.install(1, b"first")
    active = device.installer._slots.active()
    assert active is not None
    assert active.tflite == b"first"


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("label 'c'"),
        RecordError("too many classes"),
        MemoryError(),
        KeyError("x"),
        RuntimeError("y" * 900),
    ],
)
def test_whatever_goes_wrong_is_a_refusal(device: Device, failure: Exception) -> None:
    device.install(1, b"first")
    device.workshop.failure = failure
    report = device.install(2, b"second")
    assert report.outcome == "refused"
    assert 1 <= len(report.reason) <= 500
    assert report.active_version == 1


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), BlobError("damaged on disk")])
def test_what_may_pass_is_no_decision(device: Device, failure: Exception) -> None:
    device.workshop.failure = failure
    with pytest.raises(type(failure)):
        device.install(1, b"first")
    device.workshop.failure = None
    assert device.install(1, b"first").outcome == "activated"


def test_what_the_gate_refuses_is_not_activated(device: Device) -> None:
    device.install(1, b"first")
    device.verdict = GateVerdict(False, "slow")
    report = device.install(2, b"second")
    assert (report.outcome, report.reason, report.active_version) == ("refused", "slow", 1)
