"""What a codec does to one update: bytes, likeness, seconds and memory, each codec in a fresh process.

A process is pinned to one core, codes the same made-up update several times and reports the fastest run: on a
shared machine that is the one that was disturbed least. Memory is asked of tracemalloc in runs of their own,
for it slows down what it watches. Error feedback is not in the figures: it is one addition and one
subtraction, whatever the codec.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.codecs import CODECS, find_codec
from benchmarks.codecs.codec import Tensors
from benchmarks.errors import BenchmarkError
from compression.spec import MAX_PARAMETERS, TensorSpec, Weights
from edge_client.measure.children import run_child

Report = Callable[[str, float], None]
LAYERS = 10
MIN_PARAMETERS = 100
SETTLED_ROUND = 10_000  # every profile's warm-up is over
TENSOR_SPREAD = 0.5  # standard deviation of the logarithm of a tensor's scale


@dataclass(frozen=True, slots=True)
class WireResult:
    """One codec; MB are 10^6 bytes, and MB/s those of float32 that go in or come out."""

    profile: str
    paper: str
    parameters: int
    payload_bytes: int
    bytes_per_parameter: float
    cosine: float
    encode_s: float
    decode_s: float
    encode_mb_per_s: float
    decode_mb_per_s: float
    peak_mb: float  # of encoding or decoding, whichever takes more, results included and the update not
    peak_times: float  # the same in float32 updates
    runs: int
    encode_cpu_s: tuple[
        float, ...
    ] = ()  # of the processor, each run's, at most 200: what two results differ in
    decode_cpu_s: tuple[float, ...] = ()


def benchmark_wire(
    parameters: int,
    *,
    codecs: Sequence[str] = (),
    seed: int = 0,
    max_s: float = 2.0,
    report: Report | None = None,
) -> list[WireResult]:
    """Measure codecs on one made-up update.

    Args:
        parameters: of the model.
        codecs: names; all by default.
        seed: of the update.
        max_s: of timing, for each codec and direction.
        report: told what is being done.

    Raises:
        BenchmarkError: an unknown codec, a size that cannot be, or a codec that fails.
    """
    if not MIN_PARAMETERS <= parameters <= MAX_PARAMETERS:
        raise BenchmarkError(
            f"{parameters} parameters cannot be measured: take {MIN_PARAMETERS} to {MAX_PARAMETERS}"
        )
    chosen = [find_codec(name) for name in codecs or CODECS]
    results = []
    for done, codec in enumerate(chosen):
        if report is not None:
            report(f"coding with {codec.name}", done / len(chosen))
        answer, _ = run_child("benchmarks.wire_child", [codec.name, str(parameters), str(seed), str(max_s)])
        results.append(_result(codec.name, codec.paper, parameters, answer))
    return results


def _result(name: str, paper: str, parameters: int, answer: Mapping[str, Any]) -> WireResult:
    float32_mb = 4 * parameters / 1e6
    return WireResult(
        profile=name,
        paper=paper,
        parameters=parameters,
        payload_bytes=int(answer["payload_bytes"]),
        bytes_per_parameter=answer["payload_bytes"] / parameters,
        cosine=answer["cosine"],
        encode_s=answer["encode_s"],
        decode_s=answer["decode_s"],
        encode_mb_per_s=float32_mb / answer["encode_s"],
        decode_mb_per_s=float32_mb / answer["decode_s"],
        peak_mb=answer["peak_mb"],
        peak_times=answer["peak_mb"] / float32_mb,
        runs=int(answer["runs"]),
        encode_cpu_s=tuple(answer["encode_cpu_s"]),
        decode_cpu_s=tuple(answer["decode_cpu_s"]),
    )


def made_up_tensors(parameters: int) -> tuple[TensorSpec, ...]:
    """Square layers with bias and batch normalisation's statistics, and what is left as the last layer."""
    width = math.isqrt(parameters // LAYERS)
    width -= 4 if width > 8 else 0  # room for the vectors
    tensors: list[TensorSpec] = []
    left = parameters
    while left >= width * (width + 3):
        number = len(tensors) // 4
        left -= width * (width + 3)
        tensors += [
            TensorSpec(f"layer{number}/kernel", (width, width)),
            TensorSpec(f"layer{number}/bias", (width,)),
            TensorSpec(f"layer{number}/moving_mean", (width,), "statistic"),
            TensorSpec(f"layer{number}/moving_variance", (width,), "statistic"),
        ]
    return (*tensors, TensorSpec("last/kernel", (left,))) if left else tuple(tensors)


def made_up_update(tensors: Sequence[TensorSpec], seed: int) -> Tensors:
    """Heavy-tailed values (Student's t, 3 degrees), each tensor with a scale of its own about 0.001."""
    rng = np.random.default_rng(seed)
    update = {}
    for tensor in tensors:
        scale = np.float32(1e-3 * math.exp(rng.normal(0, TENSOR_SPREAD)))
        update[tensor.name] = rng.standard_t(3, tensor.shape).astype(np.float32) * scale
    return update


def cosine(first: Weights, second: Weights) -> float:
    """Of the angle between two updates. Two that are 0 are alike; one that is has no likeness to another."""
    product = sum(float(np.vdot(first[n], second[n])) for n in first)
    squares = [sum(float(np.vdot(a, a)) for a in tensors.values()) for tensors in (first, second)]
    if min(squares) == 0:
        return float(squares[0] == squares[1])
    return product / math.sqrt(squares[0]) / math.sqrt(squares[1])
