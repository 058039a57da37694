"""The process of one codec: ``python -m benchmarks.wire_child CODEC PARAMETERS SEED SECONDS``."""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from benchmarks.codecs import Codec, Context, find_codec
from benchmarks.codecs.codec import Tensors
from benchmarks.errors import BenchmarkError
from benchmarks.wire import SETTLED_ROUND, cosine, made_up_tensors, made_up_update
from compression.updates import CodecError
from edge_client.measure.children import pin

MIN_RUNS = 5
DIGEST = "0" * 64  # of a bundle that does not exist


def measure(codec: Codec, context: Context, update: Tensors, max_s: float) -> dict[str, float]:
    """Everything about one codec and one update."""
    payload = encode(codec, context, update)
    encode_s, encodings = fastest(lambda: encode(codec, context, update), max_s)
    decode_s, decodings = fastest(lambda: codec.decode(payload, context), max_s)
    return {
        "payload_bytes": len(payload),
        "cosine": cosine(update, codec.decode(payload, context)),
        "encode_s": encode_s,
        "decode_s": decode_s,
        "peak_mb": max(
            peak_bytes(lambda: encode(codec, context, update)),
            peak_bytes(lambda: codec.decode(payload, context)),
        )
        / 1e6,
        "runs": min(encodings, decodings),
    }


def encode(codec: Codec, context: Context, update: Tensors) -> bytes:
    """Every time with the same dice."""
    return codec.encode(update, context, np.random.default_rng(1))


def fastest(run: Callable[[], object], max_s: float) -> tuple[float, int]:
    """Seconds of the fastest run after a first one that does not count, and how many there were."""
    run()
    started, samples = time.perf_counter(), list[float]()
    while len(samples) < MIN_RUNS or time.perf_counter() - started < max_s:
        before = time.perf_counter()
        run()
        samples.append(time.perf_counter() - before)
    return min(samples), len(samples)


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
