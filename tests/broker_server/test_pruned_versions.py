"""Pruned weights stay pruned: through lossy codecs, with what error feedback owes on both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from broker_server.records import VersionRecord
from broker_server.store.ledger import Ledger
from broker_server.versions import Versions
from compression.sparsity import sparsity_after, zero_share
from compression.spec import ModelSpec, TableInput, TensorSpec, unpack_weights, weights_digest
from compression.updates import PROFILES, decode_update
from edge_client.coding import Coder
from edge_client.session.blobs import BlobStore
from edge_client.versions import read_version

ROUNDS, FINAL, BUNDLE = 8, 0.75, "b" * 64
SPEC = ModelSpec(
    "m",
    TableInput(("x",), (0.0,), (1.0,)),
    ("a", "b"),
    (TensorSpec("d/kernel", (64, 32)), TensorSpec("d/bias", (32,))),
)
PROFILE_NAMES = ("lossless", "safe", "small", "tiny")


def drawn(rng: np.random.Generator, scale: float) -> dict[str, np.ndarray]:
    return {t.name: rng.normal(0, scale, t.shape).astype(np.float32) for t in SPEC.tensors}


class Server:
    """Versions over a real ledger."""

    def __init__(self, folder: Path, profile: str) -> None:
        self.artefacts = BlobStore(folder / "artefacts")
        self.versions = Versions(Ledger(folder / "ledger.sqlite"), self.artefacts, SPEC, BUNDLE)
        self.profile = PROFILES[profile].for_steps

    def advance(self, delta: dict[str, np.ndarray], number: int, sparsity: float | None) -> VersionRecord:
        record, weights = self.versions.advance(delta, self.profile, number, sparsity)
        self.versions.commit(record, weights)
        return record

    def zeros(self) -> np.ndarray:
        return np.asarray(self.versions.weights["d/kernel"] == 0)


@pytest.mark.parametrize("profile", PROFILE_NAMES)
def test_what_is_pruned_stays_zero_and_every_device_holds_the_same(tmp_path: Path, profile: str) -> None:
    """Deltas and what is owed press on every weight, the pruned ones too."""
    rng = np.random.default_rng(1)
    server = Server(tmp_path, profile)
    server.versions.begin(drawn(rng, 0.1))
    held, before = server.versions.weights, server.zeros()
    for number in range(1, ROUNDS + 1):
        asked = sparsity_after(number, ROUNDS, FINAL, "polynomial", 0.1, 0.6)
        record = server.advance(drawn(rng, 0.05), number, asked)
        zeros = server.zeros()
        assert (zeros >= before).all()  # none comes back
        assert zero_share(server.versions.weights, SPEC.tensors) == pytest.approx(asked, abs=1e-3)
        assert record.residual is not None
        owed = unpack_weights(server.artefacts.read(record.residual), SPEC)
        assert not owed["d/kernel"][zeros].any()
        step = record.step
        assert step is not None and step.sparsity == asked
        reference = replace(server.versions.reference(), steps=(step,))  # also where the whole is smaller
        held = read_version(
            server.artefacts, reference, SPEC, model_digest=BUNDLE, held=held, held_digest=step.from_digest
        )
        assert weights_digest(held) == record.digest
        before = zeros


def test_without_pruning_a_step_is_what_it_was(tmp_path: Path) -> None:
    server = Server(tmp_path, "lossless")
    first = {"d/kernel": np.zeros((64, 32), np.float32), "d/bias": np.zeros(32, np.float32)}
    server.versions.begin(first)
    record = server.advance(drawn(np.random.default_rng(2), 1.0), 1, None)
    assert record.step is not None and record.step.sparsity is None
    assert server.versions.weights["d/kernel"].all()  # zeros are weights like any other


def test_what_a_device_owes_does_not_come_back_through_the_mean(tmp_path: Path) -> None:
    """A device owes much to pruned weights, and sends it: the server's step leaves it out."""
    rng = np.random.default_rng(3)
    server = Server(tmp_path, "lossless")
    server.versions.begin(drawn(rng, 0.1))
    server.advance(drawn(rng, 0.01), 1, FINAL)
    zeros = server.zeros()
    coder = Coder.of(SPEC, BUNDLE, "lossless", 2)
    payload, _ = coder.update(drawn(rng, 0.0), {"d/kernel": np.where(zeros, 9, 0).astype("f4"),
                                                "d/bias": np.zeros(32, "f4")})  # fmt: skip
    delta = decode_update(payload, SPEC.tensors, model_digest=BUNDLE).delta
    assert (delta["d/kernel"][zeros] == 9).all()
    server.advance(dict(delta), 2, FINAL)
    np.testing.assert_array_equal(server.zeros(), zeros)
