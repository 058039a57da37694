"""How much memory a device needs to run a frozen network once a picture, before any device has it.

The arena is computed as for training (`compression.trainable.schedule`); what the process takes besides is a
straight line through measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensorflow.lite.tools import flatbuffer_utils

from compression.trainable.plan import MemoryPlan
from compression.trainable.schedule import arena_bytes

MB = 1e6


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """What extracting takes.

    Attributes:
        file_bytes: of the extractor, to be fetched once and kept on disk.
        arena_bytes: tensors alive at the worst moment.
        peak_rss_mb: largest resident set (10^6 bytes) of a process that does nothing else, by runtime.
    """

    file_bytes: int
    arena_bytes: int
    peak_rss_mb: Mapping[str, float]

    def before(self, training: MemoryPlan) -> dict[str, float]:
        """Peak by runtime of a process that extracts, and then trains: it never holds both."""
        return {name: max(peak, self.peak_rss_mb[name]) for name, peak in training.peak_rss_mb.items()}


@dataclass(frozen=True, slots=True)
class _Fit:
    """Non-negative least squares of peak RSS in MB, weighted to relative errors.

    Of processes that extract and then train the head. Measured on 10 files: MobileNetV2 at 32x32x1 and
    96x96x3, EfficientNet-B0, VGG-16 and ResNet-50 at 96x96x3, each in int8 and with int8 weights alone, on
    x86_64, Python 3.11. Largest error 3 %.
    """

    base_mb: float
    file: float  # bytes of RSS for a byte of the file: itself, and the runtime's packed copy of its weights
    arena: float
    op_kb: float

    def peak_mb(self, file: int, arena: int, ops: int) -> float:
        return self.base_mb + (self.file * file + self.arena * arena + 1e3 * self.op_kb * ops) / MB


FITS: Mapping[str, _Fit] = {
    "ai-edge-litert": _Fit(58.6, 2.06, 0.12, 8.0),
    "tflite-runtime": _Fit(54.7, 1.40, 0.69, 2.9),
}


def plan_extraction(tflite: bytes) -> ExtractionPlan:
    """Arena and peak memory of an extractor's file."""
    file, arena, ops = _measures(tflite)
    peaks = {runtime: fit.peak_mb(file, arena, ops) for runtime, fit in FITS.items()}
    return ExtractionPlan(file, arena, peaks)


def _measures(tflite: bytes) -> tuple[int, int, int]:
    """Bytes of the file, bytes of its tensors alive at a time, ops."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(tflite))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    graph = model.subgraphs[0]
    return len(tflite), arena_bytes(graph, codes), len(graph.operators)
