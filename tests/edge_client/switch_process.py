"""A device's end of a release as a process of its own: check the signature, take the blobs, gate, switch.

python switch_process.py STATE FRAME BLOBS [LARGEST]: prints the report as JSON, or one line that says what
was wrong. LARGEST is the most bytes that any file may grow to: beyond it the kernel refuses to write, as on a
full disk. What is not real here is the training program, which has nothing to do with the switch.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from compression.errors import BrambleError
from compression.records import to_plain
from compression.spec import ModelSpec, TrainableBundle, weights_digest
from compression.updates import pack_model
from edge_client.inference.gate import preparation_digest
from edge_client.inference.patches import aligned_patches
from edge_client.releases import Installer
from edge_client.session.blobs import BlobStore
from edge_client.state import DeviceState
from edge_client.training.examples import Examples
from edge_client.wire.blobs import BlobRef, sha256, split
from edge_client.wire.frame import decode
from edge_client.wire.rollout import ModelSource, Release
from edge_client.wire.signing import Verifier
from edge_client.wire.topics import RELEASE, Topics
from edge_client.wire.weights import WeightsRef
from tests.edge_client.inference_cases import SPEC, local_data

TOPIC = Topics("ward").all(RELEASE)
KEY_FILE = "server_key"
WEIGHTS = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in SPEC.tensors}
FULL = pack_model(WEIGHTS)
OLD, NEW = b"a model that answers" * 3000, b"a model that is new." * 3000


def bundle_of(spec: ModelSpec = SPEC) -> bytes:
    """With the spec that says what an input is, and no program in it."""
    return TrainableBundle(spec, b"no program").to_bytes()


def release(version: int, model: bytes, **fields: Any) -> Release:
    """A release of a model for bright and dark pictures."""
    plain = Release(
        fleet="ward",
        order=version,
        version=version,
        model=BlobRef.of(model),
        bundle=BlobRef.of(bundle_of()),
        preparation=preparation_digest(SPEC),
        weights=WeightsRef(version=0, digest=weights_digest(WEIGHTS), full=BlobRef.of(FULL)),
        calibration="none",
    )
    return replace(plain, **fields)


def patched_release(directory: Path) -> Release:
    """Version 2, which can be had as a patch to version 1; the patch is here."""
    patch = next(aligned_patches(OLD, NEW))
    for data in (patch, bundle_of(), FULL):
        BlobStore(directory / "blobs").put(data)
    return release(2, NEW, sources=(ModelSource(from_digest=sha256(OLD), blob=BlobRef.of(patch)),))


class Shop:
    """The device's data, and weights that are right about all of it."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def open(self, ref: BlobRef, *_: object) -> tuple[Any, Any]:
        spec = TrainableBundle.from_bytes(self._blobs.read(ref)).spec
        data = local_data([10, 20, 30, 40, 200, 210, 220, 230], [0] * 4 + [1] * 4)
        return SimpleNamespace(spec=spec, set_weights=lambda _: None), Examples(data, data)

    def weights(self, ref: WeightsRef, _spec: ModelSpec) -> bytes:
        return self._blobs.read(ref.full)

    def evaluate(self, *_: object) -> Any:
        return SimpleNamespace(accuracy=1.0)


def installer(directory: Path) -> tuple[DeviceState, Installer]:
    """As the agent makes it."""
    state, blobs = DeviceState(directory), BlobStore(directory / "blobs")
    return state, Installer(state, blobs, Shop(blobs))  # type: ignore[arg-type]


def main(directory: Path, frame: Path, served: Path) -> int:
    """Install what the frame announces from the blobs that are served."""
    key = (directory / KEY_FILE).read_text()
    try:
        message = decode(frame.read_bytes(), topic=TOPIC, verifier=Verifier(key)).message
        assert isinstance(message, Release)
        state, patient = installer(directory)
        blobs = BlobStore(directory / "blobs")
        if message.order < state.memory.release:
            print(json.dumps(to_plain(patient.replayed(message))))
            return 0
        for ref in patient.wanted(message):
            for index, part in enumerate(split((served / ref.digest).read_bytes())):
                blobs.add_chunk(ref, index, part)
        report = patient.install(message, frame.read_bytes())
        state.remember(replace(state.memory, release=message.order, release_report=report))
    except (BrambleError, OSError) as exc:
        print(f"{type(exc).__name__}: {exc}")
        return 1
    print(json.dumps(to_plain(report)))
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 4:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with EFBIG instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
    sys.exit(main(*(Path(argument) for argument in sys.argv[1:4])))
