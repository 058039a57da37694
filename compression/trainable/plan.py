"""How much memory a device will need to train a bundle, before any device has it.

The arenas are computed: tensors that live at the same time, in the order of the program's ops. What the
process takes besides is a straight line through measurements (see `_Fit`): the runtime's packed copies, gaps
between tensors, the interpreter's own structures, Python and NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tensorflow.lite.tools import flatbuffer_utils

from compression.spec import TrainableBundle
from compression.trainable.schedule import arena_bytes

MB = 1e6
AUTO_ROWS = 4  # in a micro-batch: fewer cost time (small_cnn at 128x128: 2 rows 16 % more than 16, measured)
WORTH_IT = 0.05  # share of the process's memory that micro-batches must save to be taken


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What training takes.

    Attributes:
        rows: examples in memory at a time; the batch, or a micro-batch.
        train_arena_bytes, evaluate_arena_bytes: tensors alive at the worst moment of each.
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

    Measured on 37 programs: the six small architectures of the zoo at 32x32x3, 64x64x1, 96x96x1 and some at
    128x128, batches of 8, 16 and 32, whole or in micro-batches of 4 and 2; x86_64, Python 3.11. Largest error
    14 %, of mobile_cnn in batches above 60 MB of arena; half the programs are within 3 %.
    """

    base_mb: float
    train: float  # bytes of RSS for a byte of the training arena
    evaluate: float
    weight: float  # for a byte of weights: variables, optimiser, anchor, correction, and copies on the way
    op_kb: float  # for an op of the two programs

    def peak_mb(self, train: int, evaluate: int, weights: int, ops: int) -> float:
        bytes_ = self.train * train + self.evaluate * evaluate + self.weight * weights
        return self.base_mb + (bytes_ + 1e3 * self.op_kb * ops) / MB


FITS: Mapping[str, _Fit] = {
    "ai-edge-litert": _Fit(52.4, 1.46, 0.88, 14.98, 6.0),
    "tflite-runtime": _Fit(45.6, 1.59, 1.93, 18.89, 9.7),
}


def plan_memory(bundle: TrainableBundle) -> MemoryPlan:
    """Arenas and peak memory of a compiled bundle."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(bundle.tflite))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    graphs = {
        signature.signatureKey.decode(): model.subgraphs[signature.subgraphIndex]
        for signature in model.signatureDefs
    }
    train, evaluate = graphs.get("train") or graphs["accumulate"], graphs["evaluate"]
    arenas = arena_bytes(train, codes), arena_bytes(evaluate, codes)
    weights = 4 * bundle.spec.parameters
    ops = len(train.operators) + len(evaluate.operators)
    peaks = {runtime: fit.peak_mb(*arenas, weights, ops) for runtime, fit in FITS.items()}
    return MemoryPlan(_rows(evaluate), *arenas, peaks)


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
