"""``python -m benchmarks.aggregate_child make|plain|average FOLDER CODEC PARAMETERS [UPDATES]``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.wire import SETTLED_ROUND, made_up_tensors, made_up_update
from benchmarks.wire_child import DIGEST
from broker_server.checks import check_steps
from broker_server.strategies.sums import Sums
from compression.spec import TensorSpec
from compression.updates import PROFILES, decode_update, encode_update
from edge_client.health import peak_rss_mb
from edge_client.measure.children import pin
from edge_client.measure.timing import thinned

DIFFERENT = 8  # updates that are made; they come round again and again
COPIED_BYTES = 1 << 27  # far more than any cache holds
PLAIN_RUNS = 200
COPIES = 20
MOST_SAMPLES = 1000  # updates whose times are kept in the result


def make(folder: Path, codec: str, tensors: tuple[TensorSpec, ...]) -> dict[str, float]:
    """Coded updates as files."""
    sizes = []
    for number in range(DIFFERENT):
        update = made_up_update(tensors, number)
        encoded = encode_update(
            update, PROFILES[codec], model_digest=DIGEST, round_number=SETTLED_ROUND, tensors=tensors
        )
        (folder / str(number)).write_bytes(encoded.payload)
        sizes.append(len(encoded.payload))
    return {"payload_bytes": sum(sizes) / len(sizes)}


def average(folder: Path, tensors: tuple[TensorSpec, ...], updates: int) -> dict[str, Any]:
    """As a closing round does it, one update in memory at a time."""
    started, sums = time.process_time(), Sums()
    moments = [started]
    for number in range(updates):
        payload = (folder / str(number % DIFFERENT)).read_bytes()
        update = decode_update(payload, tensors, model_digest=DIGEST)
        check_steps(update, SETTLED_ROUND)
        sums.add(update.delta, 100 + number)
        moments.append(time.process_time())
    sums.mean()
    answer = {"s_per_update": (time.process_time() - started) / updates, "peak_rss_mb": peak_rss_mb()}
    return answer | {"samples_ms": thinned((1e3 * np.diff(moments)).tolist(), MOST_SAMPLES)}


def plain(tensors: tuple[TensorSpec, ...]) -> dict[str, float]:
    """A weighted sum of arrays in memory, and the speed of copying."""
    update = np.concatenate([array.ravel() for array in made_up_update(tensors, 0).values()])
    total = np.zeros(update.size, np.float64)

    def add() -> None:
        np.add(total, np.multiply(update, 0.3, dtype=np.float64), out=total)

    source = np.ones(COPIED_BYTES, np.uint8)
    target = np.zeros_like(source)
    copy_s = cpu_seconds(lambda: np.copyto(target, source), COPIES)
    return {"s_per_update": cpu_seconds(add, PLAIN_RUNS), "bytes_per_s": 2 * COPIED_BYTES / copy_s}


def cpu_seconds(run: Callable[[], object], times: int) -> float:
    """Mean of so many runs after a first one that does not count."""
    run()
    started = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - started) / times


def main(arguments: list[str]) -> None:
    """Print one line of JSON."""
    what, folder, codec, parameters, *rest = arguments
    pin(1)
    tensors = made_up_tensors(int(parameters))
    if what == "make":
        answer = make(Path(folder), codec, tensors)
    elif what == "plain":
        answer = plain(tensors)
    else:
        answer = average(Path(folder), tensors, int(rest[0]))
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
