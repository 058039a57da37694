"""Updates that were decoded to be checked are the ones that are averaged, as far as they fit."""

from __future__ import annotations

import numpy as np

from broker_server.decoded import DecodedResult, DecodedResults, decode_result
from compression.spec import ImageInput, ModelSpec, TensorSpec
from compression.updates import PROFILES, encode_update
from edge_client.wire.blobs import BlobRef
from edge_client.wire.rounds import TrainingReport

DIGEST = "ab" * 32
SPEC = ModelSpec("model", ImageInput(8, 8), ("a", "b"), (TensorSpec("w", (50,)), TensorSpec("b", (2,))))
REPORT = TrainingReport(examples=3, steps=1, loss=0.5, seconds=1.0, base_version=0)
BYTES = 4 * 52


def _payload(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    delta = {tensor.name: rng.normal(size=tensor.shape).astype(np.float32) for tensor in SPEC.tensors}
    return encode_update(delta, PROFILES["lossless"], model_digest=DIGEST, round_number=1).payload


def _decoded(payload: bytes) -> DecodedResult:
    return decode_result(payload, REPORT, SPEC, DIGEST)


def test_what_is_kept_is_handed_back_until_the_round_is_over() -> None:
    payload, results = _payload(1), DecodedResults()
    decoded = _decoded(payload)
    assert decoded.nbytes == BYTES
    results.keep(BlobRef.of(payload), REPORT, decoded)
    assert results.of(BlobRef.of(payload), REPORT) is decoded
    results.clear()
    assert results.of(BlobRef.of(payload), REPORT) is None


def test_no_more_is_kept_than_fits() -> None:
    first, second = _payload(1), _payload(2)
    results = DecodedResults(limit=2 * BYTES - 1)
    for payload in (first, first, second):
        results.keep(BlobRef.of(payload), REPORT, _decoded(payload))
    assert results.of(BlobRef.of(first), REPORT) is not None
    assert results.of(BlobRef.of(second), REPORT) is None
    results.clear()
    results.keep(BlobRef.of(second), REPORT, _decoded(second))
    assert results.of(BlobRef.of(second), REPORT) is not None
