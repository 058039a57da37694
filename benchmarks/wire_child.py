"""The process of one codec: ``python -m benchmarks.wire_child CODEC PARAMETERS SEED SECONDS``."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.codecs import Codec, Context, find_codec
from benchmarks.codecs.codec import Tensors
from benchmarks.errors import BenchmarkError
from benchmarks.wire import SETTLED_ROUND, cosine, made_up_tensors, made_up_update
from compression.updates import CodecError
from edge_client.measure.children import pin
from edge_client.measure.timing import thinned

MIN_RUNS = 5
MOST_RUNS = 200  # that are kept in the result, to be compared with another's
DIGEST = "0" * 64  # of a bundle that does not exist


def measure(codec: Codec, context: Context, update: Tensors, max_s: float) -> dict[str, Any]:
    """Everything about one codec and one update."""
    payload = encode(codec, context, update)
    encodings = timed(lambda: encode(codec, context, update), max_s)
    decodings = timed(lambda: codec.decode(payload, context), max_s)
    return {
        "payload_bytes": len(payload),
        "cosine": cosine(update, codec.decode(payload, context)),
        "encode_s": encodings.fastest_s,
        "decode_s": decodings.fastest_s,
        "encode_cpu_s": thinned(encodings.cpu_s, MOST_RUNS),
        "decode_cpu_s": thinned(decodings.cpu_s, MOST_RUNS),
        "peak_mb": max(
            peak_bytes(lambda: encode(codec, context, update)),
            peak_bytes(lambda: codec.decode(payload, context)),
        )
        / 1e6,
        "runs": min(len(encodings.cpu_s), len(decodings.cpu_s)),
    }


def encode(codec: Codec, context: Context, update: Tensors) -> bytes:
    """Every time with the same dice."""
    return codec.encode(update, context, np.random.default_rng(1))


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of the fastest run, and the processor's seconds of each, which others' work hardly changes."""

    fastest_s: float
    cpu_s: tuple[float, ...]


def timed(run: Callable[[], object], max_s: float) -> Timed:
    """Run it again and again, after a first time that does not count."""
    run()
    started, walls, cpu = time.perf_counter(), list[float](), list[float]()
    while len(walls) < MIN_RUNS or time.perf_counter() - started < max_s:
        before = time.perf_counter(), time.process_time()
        run()
        cpu.append(time.process_time() - before[1])
        walls.append(time.perf_counter() - before[0])
    return Timed(min(walls), tuple(cpu))


def peak_bytes(run: Callable[[], object]) -> int:
    """Most memory that was allocated at a time while it ran, NumPy's arrays included."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main(arguments: list[str]) -> None:
    """Print one line of JSON."""
    name, parameters, seed, max_s = arguments
    pin(1)
    tensors = made_up_tensors(int(parameters))
    update = made_up_update(tensors, int(seed))
    try:
        answer: dict[str, object] = {
            **measure(find_codec(name), Context(tensors, DIGEST, SETTLED_ROUND), update, float(max_s))
        }
    except (BenchmarkError, CodecError) as exc:
        answer = {"error": f"{name}: {exc}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
