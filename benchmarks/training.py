"""One training step of our program in a TFLite runtime against Keras: same model, weights, batch, processors.

Each engine runs in a fresh process that is pinned to as many processors as it may have threads, so that its
peak memory is its own and no library takes a processor more. Ours loads no TensorFlow; the compilation, which
needs it, happens in a third process. Keras gets its fastest plain form: one traced ``tf.function`` for the
step, the batch already a tensor.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from compression.spec import Optimizer, SpecError, TrainableBundle
from edge_client.measure.children import run_child

Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class EngineResult:
    """One engine; milliseconds for one step of one batch, warm-up apart."""

    ms_per_step: float  # the median
    p90_ms: float
    p99_ms: float
    min_ms: float
    runs: int
    first_step_ms: float
    interval_ms: tuple[float, float]  # of the median, 95 %
    examples_per_s: float
    peak_rss_mb: float
    load_ms: float  # from the start of the process's own code to the first step
    loss_first: float
    loss_last: float
    samples_ms: tuple[tuple[float, ...], ...]  # `edge_client.measure.timing.Timings.samples_ms`


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours over Keras: below 1 is in our favour."""

    time: float
    memory: float


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Both engines; `keras` and `ratio` are None where only a bundle was measured."""

    model: str
    input: tuple[int, ...]
    batch: int
    threads: int
    optimizer: str
    parameters: int
    runtime: str
    bundle_bytes: int
    ours: EngineResult
    keras: EngineResult | None
    ratio: Ratio | None


def benchmark_training(
    model: str,
    *,
    input_shape: Sequence[int],
    classes: int = 2,
    batch: int = 16,
    threads: int = 1,
    optimizer: Optimizer = "adam",
    max_s: float = 10.0,
    report: Report | None = None,
) -> TrainingResult:
    """Compile a model, then train it on one made-up batch with both engines.

    Args:
        model: a name of the zoo, or ``module:function``.
        input_shape: of one example.
        classes: how many.
        batch: examples a step.
        threads: of either engine.
        optimizer: of either engine.
        max_s: of timing, for each engine.
        report: told what is being done.

    Raises:
        BenchmarkError: the model cannot be compiled, or an engine fails.
    """
    say = report or (lambda _what, _share: None)
    shape = "x".join(str(extent) for extent in input_shape)
    with tempfile.TemporaryDirectory(prefix="bramble-bench-") as directory:
        say("compiling the model", 0.0)
        common = [directory, model, shape, str(classes), str(batch), optimizer]
        run_child("benchmarks.training_compile", common, environment=_tensorflow_environment())
        say("training with the TFLite runtime", 0.3)
        ours, runtime = _ours(Path(directory) / "bundle.bin", threads, max_s)
        say("training with Keras", 0.6)
        answer, _ = run_child(
            "benchmarks.training_keras",
            [*common, str(threads), str(max_s)],
            environment=_tensorflow_environment(),
        )
        keras = _engine(answer, batch)
        data = (Path(directory) / "bundle.bin").read_bytes()
        say("done", 1.0)
    return _result(model, data, threads, runtime, ours, keras)


def benchmark_bundle(
    path: Path, *, threads: int = 1, max_s: float = 10.0, report: Report | None = None
) -> TrainingResult:
    """Train a compiled bundle from random weights: what a device without TensorFlow can measure."""
    if report is not None:
        report("training with the TFLite runtime", 0.0)
    try:
        data = path.read_bytes()
        TrainableBundle.from_bytes(data)
    except OSError as exc:
        raise BenchmarkError(f"{path}: {exc.strerror or exc}") from exc
    except SpecError as exc:
        raise BenchmarkError(f"{path}: {exc}") from exc
    ours, runtime = _ours(path, threads, max_s)
    return _result(str(path), data, threads, runtime, ours, None)


def _ours(bundle: Path, threads: int, max_s: float) -> tuple[EngineResult, str]:
    answer, _ = run_child("benchmarks.training_ours", [str(bundle), str(threads), str(max_s)])
    if answer.pop("imports_tensorflow"):
        raise BenchmarkError(
            "our trainer's process had imported TensorFlow: its memory is not what a device pays"
        )
    runtime = str(answer.pop("runtime"))
    return _engine(answer, int(answer.pop("batch"))), runtime


def _engine(answer: dict[str, Any], batch: int) -> EngineResult:
    losses = (answer["loss_first"], answer["loss_last"])
    if not all(math.isfinite(loss) for loss in losses):
        raise BenchmarkError(f"the loss is not finite ({losses[0]}, {losses[1]}): nothing was trained")
    low, high = answer.pop("interval_ms")
    samples = tuple(map(tuple, answer.pop("samples_ms")))
    return EngineResult(
        **answer,
        interval_ms=(low, high),
        samples_ms=samples,
        examples_per_s=1e3 * batch / answer["ms_per_step"],
    )


def _result(
    model: str, data: bytes, threads: int, runtime: str, ours: EngineResult, keras: EngineResult | None
) -> TrainingResult:
    bundle = TrainableBundle.from_bytes(data)
    spec = bundle.spec
    ratio = None
    if keras is not None:
        ratio = Ratio(ours.ms_per_step / keras.ms_per_step, ours.peak_rss_mb / keras.peak_rss_mb)
    return TrainingResult(
        model=model,
        input=spec.input.shape,
        batch=spec.batch_size,
        threads=threads,
        optimizer=spec.optimizer,
        parameters=spec.parameters,
        runtime=runtime,
        bundle_bytes=len(data),
        ours=ours,
        keras=keras,
        ratio=ratio,
    )


def _tensorflow_environment() -> dict[str, str]:
    return {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


def verdict(result: TrainingResult) -> str:
    """What it comes to, in words."""
    ours, keras = result.ours, result.keras
    text = (
        f"A step of {result.batch} examples takes {ours.ms_per_step:.3g} ms "
        f"({ours.examples_per_s:,.0f} examples a second) in a process of {ours.peak_rss_mb:.0f} MB."
    )
    if keras is None or result.ratio is None:
        return text
    time, memory = result.ratio.time, 1 / result.ratio.memory
    against = f"{time:.2f} times as long as" if time >= 1 else f"{1 / time:.2f} times less time than"
    return (
        f"{text}\nKeras takes {keras.ms_per_step:.3g} ms in {keras.peak_rss_mb:.0f} MB: "
        f"ours takes {against} Keras and {memory:.1f} times less memory."
    )
