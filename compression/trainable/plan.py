"""How much memory a device will need to train a bundle, before any device has it.

Arena and workspace of each signature are computed as the runtimes place them (`footprint`). What the process
takes besides is a straight line through measurements (see `_Fit`): Python, NumPy, variables and their copies,
the interpreter's own structures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tensorflow.lite.tools import flatbuffer_utils

from compression.spec import TrainableBundle
from compression.trainable.footprint import RUNTIMES, footprint

MB = 1e6
AUTO_ROWS = 4  # in a micro-batch: fewer cost time (small_cnn at 128x128: 2 rows 16 % more than 16, measured)
WORTH_IT = 0.05  # share of the process's memory that micro-batches must save to be taken


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What training takes.

    Attributes:
        rows: examples in memory at a time; the batch, or a micro-batch.
        train_arena_bytes, evaluate_arena_bytes: what the tensors of each take in ai-edge-litert, XNNPACK's
            workspace included.
        peak_rss_mb: largest resident set (10^6 bytes) of a process that trains and evaluates, by runtime;
            without what an agent holds besides (its session, its pictures).
    """

    rows: int
    train_arena_bytes: int
    evaluate_arena_bytes: int
    peak_rss_mb: Mapping[str, float]

    @property
    def largest_mb(self) -> float:
        """The runtime that needs more."""
        return max(self.peak_rss_mb.values())


@dataclass(frozen=True, slots=True)
class _Fit:
    """Non-negative least squares of peak RSS in MB, weighted to relative errors.

    Measured as `tests.compression.fit_plan` does it, on 116 programs: the zoo in several sizes, batches and
    micro-batches, and 70 random models that a user might write; x86_64, Python 3.11. Of models left out of
    the fit, 95 % were within 7 % (ai-edge-litert) and 12 % (tflite-runtime), the worst 14 % and 16 % off.
    """

    base_mb: float
    arena: float  # bytes of RSS for a byte of all signatures' arenas
    workspace: float  # for a byte of the largest workspace
    weight: float  # for a byte of weights
    op_kb: float  # for an op of the file

    def peak_mb(self, load: Load) -> float:
        bytes_ = self.arena * load.arenas + self.workspace * load.workspace + self.weight * load.weights
        return self.base_mb + (bytes_ + 1e3 * self.op_kb * load.ops) / MB


@dataclass(frozen=True, slots=True)
class Load:
    """What peak memory is made of, in one runtime; bytes but for `ops`."""

    arenas: int
    workspace: int
    weights: int
    ops: int


FITS: Mapping[str, _Fit] = {
    "ai-edge-litert": _Fit(51.35, 1.04, 1.20, 3.35, 2.27),
    "tflite-runtime": _Fit(45.23, 0.99, 1.86, 8.86, 7.98),
}
IDLE = ("infer", "set_correction")  # signatures that a training device never runs, or hardly ever


def plan_memory(bundle: TrainableBundle) -> MemoryPlan:
    """Arenas and peak memory of a compiled bundle."""
    model = _parsed(bundle)
    graphs = _graphs(model)
    step = "train" if "train" in graphs else "accumulate"
    sizes = [footprint(model, graphs[name], RUNTIMES[0]).total for name in (step, "evaluate")]
    peaks = {runtime: FITS[runtime].peak_mb(_load(model, bundle, runtime)) for runtime in RUNTIMES}
    return MemoryPlan(_rows(graphs["evaluate"]), sizes[0], sizes[1], peaks)


def loads_of(bundle: TrainableBundle) -> dict[str, Load]:
    """What a bundle's peak memory is made of, by runtime."""
    model = _parsed(bundle)
    return {runtime: _load(model, bundle, runtime) for runtime in RUNTIMES}


def _load(model: Any, bundle: TrainableBundle, runtime: str) -> Load:
    graphs = _graphs(model)
    taken = [footprint(model, graph, runtime) for name, graph in graphs.items() if name not in IDLE]
    return Load(
        arenas=sum(each.arena for each in taken),
        workspace=max(each.workspace for each in taken),
        weights=4 * bundle.spec.parameters,
        ops=sum(len(graph.operators) for graph in graphs.values()),
    )


def _parsed(bundle: TrainableBundle) -> Any:
    return flatbuffer_utils.convert_bytearray_to_object(bytearray(bundle.tflite))


def _graphs(model: Any) -> dict[str, Any]:
    return {each.signatureKey.decode(): model.subgraphs[each.subgraphIndex] for each in model.signatureDefs}


def auto_rows(batch_size: int) -> int:
    """The smallest divisor of the batch that is not less than `AUTO_ROWS`."""
    return next(rows for rows in range(min(AUTO_ROWS, batch_size), batch_size + 1) if batch_size % rows == 0)


def worth_splitting(whole: MemoryPlan, split: MemoryPlan) -> bool:
    """Do micro-batches save memory worth the name?"""
    return split.largest_mb < (1.0 - WORTH_IT) * whole.largest_mb


def _rows(evaluate: Any) -> int:
    """First extent of the program's picture or row: the input with the most axes."""
    shapes = [evaluate.tensors[int(index)].shape for index in evaluate.inputs]
    return int(max(shapes, key=len)[0])
