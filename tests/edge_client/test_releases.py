"""Installing a release: whatever goes wrong, the model before it answers, and the way back is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compression.records import RecordError
from compression.updates import pack_model
from edge_client.inference.gate import GateVerdict
from edge_client.inference.patches import aligned_patches
from edge_client.releases import Installer
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.state import DeviceState
from edge_client.training.examples import Examples
from edge_client.wire.blobs import BlobRef, sha256
from edge_client.wire.rollout import ModelSource, Release, ReleaseReport
from tests.edge_client.agent_cases import SPEC, WEIGHTS, bundle_of, release


class FakeWorkshop:
    """Opens any bundle; evaluates nothing."""

    failure: Exception | None = None

    def open(self, _ref: object, _extractor: object) -> tuple[SimpleNamespace, Examples]:
        if self.failure:
            raise self.failure
        data: Any = SimpleNamespace(validation_index=())
        return SimpleNamespace(spec=SPEC, set_weights=lambda _: None), Examples(data, data)

    def weights(self, _ref: object, _spec: object) -> None: ...

    def evaluate(self, _trainer: object, _data: object) -> None: ...


class Device:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = DeviceState(directory)
        self.blobs = BlobStore(directory / "blobs")
        self.workshop = FakeWorkshop()
        self.gated: list[bytes] = []
        self.verdict = GateVerdict(True, "good")
        monkeypatch.setattr("edge_client.releases.at_home", lambda answering, *_: answering)
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


# ---- which version may follow which ----


def test_an_older_version_is_refused_unless_a_rollback_says_so(device: Device) -> None:
    device.install(2, b"second")
    older = device.offer(1, b"first")
    report = device.installer.install(replace(older, order=5))
    assert (report.outcome, report.active_version) == ("refused", 2)
    assert report.reason == (
        "version 1 is older than version 2, which answers: only a signed rollback goes back"
    )
    report = device.installer.install(replace(older, order=6, rollback=True))
    assert (report.outcome, report.active_version) == ("rolled-back", 1)


def test_the_way_back_needs_neither_files_nor_gate(device: Device) -> None:
    device.install(1, b"first")
    device.install(2, b"second")
    back = replace(device.offer(1, b"first"), order=3, rollback=True)
    device.blobs.keep_only([])
    assert device.installer.wanted(back) == []
    report = device.installer.install(back)
    assert (report.outcome, report.reason, report.active_version) == (
        "rolled-back",
        "back to the model before",
        1,
    )
    assert device.gated == [b"first", b"second"]


def withdrawal(device: Device, version: int, model: bytes) -> Release:
    return replace(device.offer(version, model), version=0, order=9, rollback=True)


def test_a_first_model_is_taken_back_and_none_answers(device: Device) -> None:
    device.install(2, b"first")
    release = withdrawal(device, 2, b"first")
    device.blobs.keep_only([])
    assert device.installer.wanted(release) == []
    for reason in (
        "no model is active: model 2 was taken back",
        "it did not answer here",
    ):  # a power cut between
        report = device.installer.install(release)
        assert (report.outcome, report.version, report.active_version) == ("rolled-back", 0, 0)
        assert report.reason.startswith(reason)
    assert device.install(3, b"second").outcome == "activated"


def test_what_is_taken_back_is_that_file_and_no_other(device: Device) -> None:
    device.install(6, b"of a fleet whose ledger was lost")
    report = device.installer.install(withdrawal(device, 7, b"first"))
    assert (report.outcome, report.active_version) == ("rolled-back", 6)
    device.install(7, b"first")
    report = device.installer.install(withdrawal(device, 7, b"first"))
    assert (report.reason, report.active_version) == ("model 6 answers again", 6)


def test_no_model_at_all_is_no_release() -> None:
    with pytest.raises(RecordError, match="only for a rollback"):
        replace(release(1, b"first"), version=0)


def test_a_model_for_other_classes_or_another_preprocessing_is_refused(device: Device) -> None:
    device.install(1, b"first")
    other = replace(device.offer(2, b"second"), preparation="0" * 64)
    report = device.installer.install(other)
    assert (report.outcome, report.active_version) == ("refused", 1)
    assert report.reason == "the model was made for other classes or another preprocessing"
    assert device.installer.install(replace(device.offer(2, b"second"), order=3)).outcome == "activated"


# ---- patches ----

OLD, NEW = b"a model of some length" * 200, b"another of the length." * 200


def patched(device: Device, patch: bytes, base: bytes = OLD) -> Release:
    """A release of NEW that can be had as a patch; the file itself is not here."""
    source = ModelSource(from_digest=sha256(base), blob=BlobRef.of(patch))
    return replace(device.offer(2, NEW), sources=(source,))


def test_the_patch_for_the_active_model_is_fetched_instead_of_the_file(device: Device) -> None:
    device.install(1, OLD)
    patch = next(aligned_patches(OLD, NEW))
    offered = patched(device, patch)
    device.blobs.keep_only([])
    assert [ref.digest for ref in device.installer.wanted(offered)][-1] == sha256(patch)
    for data in (patch, bundle_of(), pack_model(WEIGHTS)):
        device.blobs.put(data)
    assert device.installer.install(offered).outcome == "activated"
    assert device.gated == [OLD, NEW]


def test_a_patch_for_a_model_that_is_not_here_is_left(device: Device) -> None:
    device.install(1, OLD)
    offered = patched(device, b"a patch", base=b"somebody else's model")
    device.blobs.keep_only([])
    assert [ref.digest for ref in device.installer.wanted(offered)][-1] == sha256(NEW)


@pytest.mark.parametrize("patch", [b"not a patch", next(aligned_patches(NEW, OLD))])
def test_a_patch_that_does_not_lead_to_the_signed_file_makes_way_for_the_file(
    device: Device, patch: bytes
) -> None:
    device.install(1, OLD)
    offered = patched(device, patch)
    device.blobs.keep_only([])
    for data in (patch, bundle_of(), pack_model(WEIGHTS)):
        device.blobs.put(data)
    with pytest.raises(BlobError, match="the whole model is fetched"):
        device.installer.install(offered)
    assert device.installer.active_version() == 1
    assert [ref.digest for ref in device.installer.wanted(offered)][-1] == sha256(NEW)
    device.blobs.put(NEW)
    assert device.installer.install(offered).outcome == "activated"


def test_a_decided_release_gives_its_space_back(device: Device) -> None:
    offered = device.offer(1, b"first")
    device.installer.install(offered)
    device.installer.forget(offered)
    assert not device.blobs.has(offered.model)
    assert device.installer.active_version() == 1
