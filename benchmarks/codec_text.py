"""The results of the codecs' benchmarks as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compression.text_table import bytes_text, text_table

if TYPE_CHECKING:
    from benchmarks.accuracy_bytes import CodecResult
    from benchmarks.wire import WireResult

WIRE_HEADER = (
    "codec",
    "bytes/param",
    "times fewer",
    "cosine",
    "encode s",
    "decode s",
    "MB/s in",
    "MB/s out",
    "peak MB",
    "of update",
)


def wire_text(results: Sequence[WireResult]) -> str:
    """A line a codec."""
    rows = [
        [
            result.profile,
            f"{result.bytes_per_parameter:.4f}",
            f"{4 / result.bytes_per_parameter:.1f}",
            f"{result.cosine:.3f}",
            f"{result.encode_s:.3g}",
            f"{result.decode_s:.3g}",
            f"{result.encode_mb_per_s:.0f}",
            f"{result.decode_mb_per_s:.0f}",
            f"{result.peak_mb:.3g}",
            f"{result.peak_times:.1f}",
        ]
        for result in results
    ]
    title = f"{results[0].parameters:,} made-up parameters, one core, the fastest of several runs"
    return f"{title}\n{text_table(WIRE_HEADER, rows)}"


def accuracy_text(results: Sequence[CodecResult]) -> str:
    """A line a codec, and what went wrong."""
    first = results[0]
    header = (
        "codec",
        "accuracy",
        "+-",
        "last rounds",
        "up",
        "down",
        "times up",
        "times down",
        f"rounds to {first.target:g}",
        "bytes to it",
    )
    sizes = f"{first.parameters:,} parameters, {first.clients} clients, {first.rounds} rounds"
    problems = [f"{result.codec}: {problem}" for result in results for problem in result.problems]
    table = text_table(header, [_accuracy_row(result) for result in results])
    return "\n".join(
        [
            f"{sizes}, {first.seeds} seeds",
            table,
            f"up and down: {first.counted}",
            *problems,
            "",
            verdict(results),
        ]
    )


def verdict(results: Sequence[CodecResult]) -> str:
    """What it comes to, in words: every codec against float32, or against the first one."""
    usable = [result for result in results if result.accuracy_mean is not None]
    if not usable:
        return "No codec got through its rounds."
    base = next((result for result in usable if result.codec == "float32"), usable[0])
    lines = []
    for result in usable:
        if result is base or result.accuracy_mean is None or base.accuracy_mean is None:
            continue
        points = 100 * (result.accuracy_mean - base.accuracy_mean)
        lines.append(
            f"{result.codec}: {result.ratio_up:.0f} times fewer bytes up and {result.ratio_down:.0f} down "
            f"than float32, accuracy {points:+.2f} points against {base.codec}."
        )
    return "\n".join(lines) or f"{base.codec} alone: nothing to compare it with."


def _accuracy_row(result: CodecResult) -> list[str]:
    price = None
    if result.bytes_up_to_target is not None and result.bytes_down_to_target is not None:
        price = result.bytes_up_to_target + result.bytes_down_to_target
    return [
        result.codec,
        *[
            _or_dash(value, ".4f")
            for value in (result.accuracy_mean, result.accuracy_std, result.accuracy_last_rounds)
        ],
        _bytes_or_dash(result.bytes_up),
        _bytes_or_dash(result.bytes_down),
        *[_or_dash(value, ".1f") for value in (result.ratio_up, result.ratio_down, result.rounds_to_target)],
        _bytes_or_dash(price),
    ]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _bytes_or_dash(value: float | None) -> str:
    return "-" if value is None else bytes_text(round(value))
