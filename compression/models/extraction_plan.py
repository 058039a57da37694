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
    base_mb: float
    file: float  # bytes of RSS for a byte of the file: itself, and the runtime's packed copy of its weights
    arena: float
    op_kb: float

    def peak_mb(self, file: int, arena: int, ops: int) -> float:
        return self.base_mb + (self.file * file + self.arena * arena + 1e3 * self.op_kb * ops) / MB


FITS: Mapping[str, _Fit] = {
    "ai-edge-litert": _Fit(56.8, 1.98, 0.15, 3.8),
    "tflite-runtime": _Fit(51.8, 1.20, 0.55, 8.3),
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
