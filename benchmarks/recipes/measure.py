"""One TFLite file: how right it is on examples, how large, how fast."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.latency import benchmark_latency
from compression.models.training import Examples
from compression.size_report import size_report
from edge_client.measure.timing import TimingRule
from edge_client.runtime import make_interpreter

TIMING = TimingRule(warm_up_s=0.1, min_runs=200, min_s=0.3, max_s=2.0)


@dataclass(frozen=True, slots=True)
class Quality:
    """On held-out examples; for more than two classes the mean over them (AUC one against the rest).

    `auc` is None where it is not defined: a class of which there is no example has none to rank.
    """

    accuracy: float
    f1: float
    precision: float
    recall: float
    auc: float | None


@dataclass(frozen=True, slots=True)
class FileFigures:
    """Bytes, milliseconds for one example on one thread, and MB (10^6) of a process that answers once."""

    size_bytes: int
    zipped_bytes: int
    zeros: float
    computes: str
    latency_p50_ms: float
    latency_p99_ms: float
    peak_rss_mb: float
    runtime: str


def classify(
    tflite: bytes,
    inputs: npt.NDArray[np.float32],
    report: Callable[[float], None] = lambda _share: None,
) -> npt.NDArray[np.float32]:
    """Probabilities [N, classes] of a file with a batch of one; integer ports by the file's own scales."""
    interpreter = make_interpreter(tflite, exact=True)  # as devices answer
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for count, example in enumerate(inputs, start=1):
        interpreter.set_tensor(source["index"], _quantised(example[None], source))
        interpreter.invoke()
        rows.append(_real(interpreter.get_tensor(target["index"])[0], target))
        report(count / len(inputs))
    return np.stack(rows)


def quality(labels: npt.NDArray[np.int32], probabilities: npt.NDArray[np.float32]) -> Quality:
    """Figures by scikit-learn; the second of two classes is the positive one."""
    from sklearn import metrics  # noqa: PLC0415 - slow to import

    predicted, two = probabilities.argmax(axis=1), probabilities.shape[1] == 2
    defined = len(np.unique(labels)) == probabilities.shape[1]
    average: Any = {"average": "binary" if two else "macro", "zero_division": 0}
    scores = probabilities[:, 1] if two else probabilities / probabilities.sum(axis=1, keepdims=True)
    return Quality(
        accuracy=float(metrics.accuracy_score(labels, predicted)),
        f1=float(metrics.f1_score(labels, predicted, **average)),
        precision=float(metrics.precision_score(labels, predicted, **average)),
        recall=float(metrics.recall_score(labels, predicted, **average)),
        auc=float(metrics.roc_auc_score(labels, scores, multi_class="ovr", average="macro"))
        if defined
        else None,
    )


def judge(tflite: bytes, examples: Examples) -> Quality:
    """`quality` of a file on examples."""
    return quality(examples.labels, classify(tflite, examples.inputs))


def file_figures(tflite: bytes, rule: TimingRule = TIMING) -> FileFigures:
    """Size from the bytes; time and memory as `bramble-bench latency` measures them, for a shorter while."""
    report = size_report(tflite)
    with tempfile.TemporaryDirectory(prefix="bramble-") as directory:
        path = Path(directory, "model.tflite")
        path.write_bytes(tflite)
        [result] = benchmark_latency([path], rule=rule)
    return FileFigures(
        size_bytes=report.file_bytes,
        zipped_bytes=report.zipped_bytes,
        zeros=report.sparsity,
        computes=result.computes,
        latency_p50_ms=result.timings.p50_ms,
        latency_p99_ms=result.timings.p99_ms,
        peak_rss_mb=result.cold_start.peak_rss_mb,
        runtime=result.runtime,
    )


def _quantised(values: npt.NDArray[np.float32], detail: dict[str, Any]) -> npt.NDArray[Any]:
    kind = np.dtype(detail["dtype"])
    if kind.kind == "f":
        return values
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(kind)
    whole: npt.NDArray[Any] = np.clip(np.round(values / scale + zero_point), limits.min, limits.max)
    return whole.astype(kind)


def _real(values: npt.NDArray[Any], detail: dict[str, Any]) -> npt.NDArray[np.float32]:
    if np.dtype(detail["dtype"]).kind == "f":
        return np.array(values, np.float32)
    scale, zero_point = detail["quantization"]
    return np.asarray((values.astype(np.float32) - zero_point) * scale, np.float32)
