"""Where a TFLite file's time goes: every op timed alone.

Neither runtime's Python interface has a profiler, so each op is cut out into a file of its own and run on
made-up inputs; equal ops are timed once and counted. What a runtime saves by running ops together, and what a
call costs, are in the difference between the sum and the whole, which is measured by the same process.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from compression.models.tflite_cut import cut_ops
from compression.text_table import text_table
from compression.timing_process import timed_by

CALLS_PREVAIL = 2.0  # times the whole
METHOD = "each op cut out of the file and run alone: the runtimes' Python interfaces have no profiler"


@dataclass(frozen=True, slots=True)
class OpTime:
    """Equal ops of one graph.

    Attributes:
        what: name and shapes, inputs before outputs.
        count: how many there are.
        ms: one of them.
    """

    op: str
    what: str
    count: int
    ms: float

    @property
    def total_ms(self) -> float:
        """All of them."""
        return self.count * self.ms


@dataclass(frozen=True, slots=True)
class OpTimes:
    """A graph's ops, those that take longest in all first.

    Attributes:
        whole_ms: the graph as a whole; None for a signature, which needs its variables.
        sum_ms: of all ops that could be timed.
        left_out: ops that could not, each with the reason.
        method: how it was measured.
    """

    model: str
    runtime: str
    machine: str
    threads: int
    xnnpack: bool
    whole_ms: float | None
    sum_ms: float
    ops: tuple[OpTime, ...]
    left_out: tuple[str, ...]
    method: str = METHOD


def time_ops(
    model: str,
    tflite: bytes,
    *,
    signature: str | None = None,
    threads: int = 1,
    xnnpack: bool = True,
    python: str | None = None,
    runtime: str | None = None,
) -> OpTimes:
    """Time the ops of a graph, in a process of its own.

    Args:
        model: what to call it.
        tflite: the file.
        signature: of the graph; None for the first one, which is then timed as a whole too.
        threads: of the runtime.
        xnnpack: False for the plain kernels.
        python: a Python with NumPy and a TFLite runtime; None is this one.
        runtime: distribution name of one of two; None for the first there is.

    Raises:
        TFLiteFileError: the file is damaged.
        TimingError: the process that times fails.
    """
    cut = cut_ops(tflite, signature)
    with tempfile.TemporaryDirectory(prefix="bramble-ops-") as directory:
        file = Path(directory) / "model.tflite"
        file.write_bytes(tflite)
        words = [str(file), str(threads), "on" if xnnpack else "off", *([signature] if signature else [])]
        answer = timed_by("compression.op_timer", words, python=python, runtime=runtime)
    pairs = list(zip(cut, answer["ms"], strict=True))
    found = [OpTime(op.op, op.what, op.count, ms) for op, ms in pairs if ms is not None]
    refused = answer["refused"]
    return OpTimes(
        model=model,
        runtime=answer["runtime"],
        machine=answer["machine"],
        threads=threads,
        xnnpack=xnnpack,
        whole_ms=answer["whole_ms"],
        sum_ms=sum(op.total_ms for op in found),
        ops=tuple(sorted(found, key=lambda op: -op.total_ms)),
        left_out=tuple(
            f"{op.what}: {op.why_not or refused[str(place)]}"
            for place, (op, ms) in enumerate(pairs)
            if ms is None
        ),
    )


def op_times_text(times: OpTimes, *, most: int = 12) -> str:
    """The kinds of ops, then those that take longest."""
    kinds: dict[str, list[OpTime]] = {}
    for op in times.ops:
        kinds.setdefault(op.op, []).append(op)
    totals = {name: sum(op.total_ms for op in ops) for name, ops in kinds.items()}
    summed = [
        [name, str(sum(op.count for op in kinds[name])), *_cells(totals[name], times.sum_ms)]
        for name in sorted(kinds, key=lambda name: -totals[name])[:most]
    ]
    longest = [[op.what, str(op.count), *_cells(op.total_ms, times.sum_ms)] for op in times.ops[:most]]
    heads = ["", "ops", "all of them", "share"]
    tables = [text_table(heads, summed), text_table(heads, longest)]
    return "\n\n".join([f"{_title(times)}\n{_sum(times)}", *tables, *_left_out(times)])


def _title(times: OpTimes) -> str:
    how = f"{times.threads} thread{'s' if times.threads > 1 else ''}{'' if times.xnnpack else ', no XNNPACK'}"
    return f"{times.model}, by op: {times.runtime} on {times.machine}, {how}; {times.method}"


def _sum(times: OpTimes) -> str:
    if not times.whole_ms:
        return f"the ops alone come to {times.sum_ms:.3g} ms"
    share = times.sum_ms / times.whole_ms
    said = f"the ops alone come to {times.sum_ms:.3g} ms, {share:.0%} of the whole's {times.whole_ms:.3g} ms"
    if share < CALLS_PREVAIL:
        return said
    return (
        f"{said}\nmost of that is the call of each op alone, which the whole has once; the shares mean little"
    )


def _left_out(times: OpTimes) -> list[str]:
    return ["not timed:\n" + "\n".join(f"  {line}" for line in times.left_out)] if times.left_out else []


def _cells(ms: float, total: float) -> list[str]:
    return [f"{ms:.3g} ms", f"{100 * ms / total:.0f} %"]
