"""What can go wrong in a switch, with real processes: the old model answers, and a retry works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.spec import ImageInput
from edge_client.inference.live import LiveModel
from edge_client.inference.slots import FOLDER, ModelSlots
from edge_client.wire.blobs import BlobRef
from edge_client.wire.frame import encode
from edge_client.wire.rollout import GateRule, Release
from edge_client.wire.signer import Signer
from tests.edge_client.inference_cases import SHAPE, SPEC, brightness_model, probability_bright
from tests.edge_client.switch_process import (
    FULL,
    KEY_FILE,
    NEW,
    OLD,
    TOPIC,
    bundle_of,
    installer,
    patched_release,
    release,
)

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent
GOOD, BETTER = brightness_model(), brightness_model(sign=0.9)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(CHECKOUT)}
OTHER = replace(SPEC, input=ImageInput(height=4, width=4, scale=1.0))


class Device:
    """A state directory on which version 5 answers, and a server's folder of blobs."""

    def __init__(self, folder: Path) -> None:
        self.state, self._served, self._frame = folder / "state", folder / "served", folder / "frame"
        self.state.mkdir()
        self._newest = 0
        self._served.mkdir()
        self.signer = Signer.create(folder / "key")
        self.other = Signer.create(folder / "another-key")
        (self.state / KEY_FILE).write_text(self.signer.public_hex)
        for data in (GOOD, BETTER, bundle_of(), bundle_of(OTHER), FULL):
            self.serve(data)
        got = json.loads(self.receive(release(5, GOOD)))
        assert got["outcome"] == "activated", got

    def serve(self, data: bytes, *, instead_of: bytes | None = None) -> None:
        (self._served / BlobRef.of(data if instead_of is None else instead_of).digest).write_bytes(data)

    def receive(self, message: Release, *, signer: Signer | None = None, largest: int | None = None) -> str:
        """Let a process install a release; what it says."""
        self._newest = max(self._newest, message.order)
        self._frame.write_bytes(encode(message, topic=TOPIC, signer=signer or self.signer))
        limit = [] if largest is None else [str(largest)]
        paths = [str(SCRIPTS / "switch_process.py"), str(self.state), str(self._frame), str(self._served)]
        ran = subprocess.run(
            [sys.executable, *paths, *limit],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode in (0, 1), ran.stderr
        return ran.stdout.splitlines()[-1]

    def old_model_answers(self) -> None:
        version, white = self._answer()
        assert version == 5
        assert white == pytest.approx(probability_bright(1.0), abs=1e-4)

    def retry_works(self) -> None:
        report = json.loads(self.receive(release(6, BETTER, order=self._newest + 1)))
        assert (report["outcome"], report["active_version"]) == ("activated", 6), report
        assert self._answer()[0] == 6

    def _answer(self) -> tuple[int, float]:
        """Version and answer of the model for a white picture."""
        with LiveModel(self.state / FOLDER) as model:
            white = model.answer(np.ones(SHAPE, np.float32))
            return model.model.version, float(white.probabilities[1])


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def refused(said: str) -> str:
    report: dict[str, Any] = json.loads(said)
    assert (report["outcome"], report["active_version"]) == ("refused", 5)
    return str(report["reason"])


def test_what_is_not_what_the_fleet_signed(device: Device) -> None:
    """Another key, a file cut short or changed on its way, an old release replayed, an older version."""
    said = device.receive(release(6, BETTER), signer=device.other)
    assert said == "WireError: the signature is not by the fleet's key"
    for bad in (BETTER[:-100], BETTER[:-100] + b"x" * 100):
        device.serve(bad, instead_of=BETTER)
        assert device.receive(release(6, BETTER)).startswith("BlobError: chunk 0 is not part of blob")
        device.old_model_answers()
    device.serve(BETTER)
    assert refused(device.receive(release(3, BETTER))) == "a replay: order 3, this device has seen 5"
    reason = refused(device.receive(release(3, BETTER, order=6)))
    assert reason == "version 3 is older than version 5, which answers: only a signed rollback goes back"
    device.old_model_answers()
    device.retry_works()
    back = json.loads(device.receive(release(5, GOOD, order=9, rollback=True)))
    assert (back["outcome"], back["active_version"]) == ("rolled-back", 5)
    device.old_model_answers()


def test_what_does_not_suit_this_device(device: Device) -> None:
    """Another preprocessing, too slow, too large, too few examples, worse than what answers."""
    worse = brightness_model(sign=-1.0)
    device.serve(worse)
    for order, (bad, why) in enumerate(
        (
            (
                release(6, BETTER, bundle=BlobRef.of(bundle_of(OTHER))),
                "other classes or another preprocessing",
            ),
            (release(6, BETTER, gate=GateRule(max_latency_ms=1e-6)), "ms, 1e-06 ms are allowed"),
            (release(6, BETTER, gate=GateRule(max_memory_mb=10.0)), "of memory, 10 MB are allowed"),
            (release(6, BETTER, gate=GateRule(min_examples=9)), "8 validation examples, 9 are asked for"),
            (release(6, worse), "accuracy 0.000, the model that answers has 1.000"),
        )
    ):
        reason = refused(device.receive(replace(bad, order=20 + order)))
        assert reason.endswith(why)
        device.old_model_answers()
    device.retry_works()


def test_a_file_that_was_broken_before_it_was_signed(device: Device) -> None:
    broken = BETTER[: len(BETTER) // 2]
    device.serve(broken)
    reason = refused(device.receive(release(6, broken)))
    assert "refuses the model" in reason or "crashes the runtime" in reason
    device.old_model_answers()
    device.retry_works()


def test_a_disk_that_fills_up(device: Device) -> None:
    assert device.receive(release(6, BETTER), largest=1000).startswith("OSError: [Errno 27]")
    device.old_model_answers()
    device.retry_works()


def test_killed_before_any_step_of_what_an_agent_does(tmp_path: Path) -> None:
    """From the patch to the memory that it was decided: after each kill a whole model, and the rest again."""
    seed = ModelSlots(tmp_path / "seed" / FOLDER)
    seed.activate(seed.stage(1, OLD, SPEC))
    ran = subprocess.run(
        [sys.executable, SCRIPTS / "inference_killed.py", tmp_path, "agent_installs"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen = []
    for number in range(1, int(ran.stdout) + 1):
        model = ModelSlots(tmp_path / str(number) / FOLDER).active()
        assert model is not None
        assert (model.version, model.tflite) in ((1, OLD), (2, NEW))
        seen.append(model.version)
        state, patient = installer(tmp_path / str(number))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edge_client.releases.run_gate", lambda *_, **__: pytest.fail("never"))
            if model.version == 2:  # it is not gated twice
                report = patient.install(patched_release(tmp_path / str(number)), b"signed 2")
                assert (report.outcome, report.reason) == ("activated", "it was active already")
        state.close()
    assert seen == sorted(seen)
    assert {1, 2} == set(seen)
    assert len(seen) > 40  # the steps were counted at all
