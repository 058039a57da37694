"""``bramble-bench latency``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.by_op import benchmark_ops, ops_text
from benchmarks.errors import BenchmarkError
from benchmarks.latency import benchmark_latency
from benchmarks.latency_words import verdict
from benchmarks.output import add_saving, emit
from benchmarks.runtimes import benchmark_runtimes
from benchmarks.text import latency_text
from compression.command_line import Commands, command, counts, names, percent, seconds
from compression.progress import progress_bar
from edge_client.measure.environment import read_environment
from edge_client.measure.timing import TimingRule


def add_latency(commands: Commands) -> None:
    """Add ``latency``."""
    parser = command(
        commands,
        "latency",
        _latency,
        "how fast TFLite files answer, warm-up apart",
        "bramble-bench latency float32.tflite int8.tflite --threads 1,4",
        "bramble-bench latency model.tflite --xnnpack on,off --batch 1,8 --save today.json",
        "bramble-bench latency model.tflite --by-op",
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="TFLite files")
    parser.add_argument(
        "--threads", type=counts, default=(1,), metavar="N,N", help="numbers of threads (default: 1)"
    )
    parser.add_argument(
        "--xnnpack", type=_switches, default=(True,), metavar="on,off", help="with and without (default: on)"
    )
    parser.add_argument(
        "--batch", type=counts, metavar="N,N", help="examples at a time (default: as the file says)"
    )
    parser.add_argument(
        "--by-op", action="store_true", help="time every op alone too: where the time goes; some seconds more"
    )
    parser.add_argument(
        "--runtimes",
        type=names,
        metavar="A,B",
        help="of ai-edge-litert, tflite-runtime (default: the installed one)",
    )
    parser.add_argument(
        "--python",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="of another environment, where a runtime is that is not here",
    )
    parser.add_argument(
        "--no-pin", action="store_true", help="let the system move the threads between processors"
    )
    parser.add_argument(
        "--precision",
        type=percent,
        default=0.01,
        metavar="PERCENT",
        help="stop when the median is known to this (95 %% interval; default: 1)",
    )
    parser.add_argument(
        "--max-seconds",
        type=seconds,
        default=10.0,
        metavar="S",
        help="or after this many seconds of timing a file (default: %(default)g)",
    )
    parser.add_argument(
        "--warm-up", type=seconds, default=0.2, metavar="S", help="seconds before it (default: %(default)g)"
    )
    add_saving(parser)


def _latency(arguments: argparse.Namespace) -> int:
    if arguments.by_op and arguments.batch:
        raise BenchmarkError("--by-op times the ops as the file has them: leave --batch out")
    rule = TimingRule(warm_up_s=arguments.warm_up, precision=arguments.precision, max_s=arguments.max_seconds)
    options: dict[str, Any] = {
        "threads": arguments.threads,
        "xnnpack": arguments.xnnpack,
        "batches": arguments.batch or (None,),
        "pin": not arguments.no_pin,
    }
    environment = read_environment()
    with progress_bar() as report:
        if arguments.runtimes:
            results = benchmark_runtimes(
                arguments.runtimes,
                arguments.python,
                arguments.models,
                options=options,
                rule=rule,
                report=report,
            )
        else:
            results = benchmark_latency(arguments.models, **options, rule=rule, report=report)
        ops = benchmark_ops(results, arguments.python, report=report) if arguments.by_op else []
    words = verdict(results)
    plain = {
        "models": [asdict(result) for result in results],
        "operators": [asdict(each) for each in ops],
        "verdict": words,
    }
    text = "\n\n".join(filter(None, [latency_text(results), ops_text(ops), words]))
    return emit(arguments, "latency", environment, plain, text)


def _switches(text: str) -> tuple[bool, ...]:
    known = {"on": True, "off": False}
    parts = text.split(",")
    if not set(parts) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r} is not on, off or on,off")
    return tuple(known[part] for part in parts)
