"""``bramble-bench``: what a machine can do, measured, with the machine beside the figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from benchmarks.environment import Environment, read_environment
from benchmarks.errors import BenchmarkError
from benchmarks.latency import benchmark_latency
from benchmarks.latency import verdict as latency_verdict
from benchmarks.progress import progress_bar
from benchmarks.size import benchmark_size
from benchmarks.text import environment_text, latency_text, size_text, training_text
from benchmarks.timing import TimingRule
from benchmarks.training import benchmark_bundle, benchmark_training
from benchmarks.training import verdict as training_verdict
from compression.commands import parse_shape
from compression.spec import Optimizer
from edge_client.runtime import RuntimeMissingError

EXAMPLES = """examples:
  bramble-bench latency float32.tflite int8.tflite
  bramble-bench train --model small_cnn --input 64x64x1 --batch 16
  bramble-bench environment --json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """0 done, 1 refused or failed (one line says why), 2 wrong usage, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except (BenchmarkError, RuntimeMissingError, OSError) as exc:
        print(f"error: {' '.join(str(exc).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


# ---- the command line ----


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bramble-bench",
        description="Measure models and training on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_latency(commands)
    size = _command(
        commands,
        "size",
        _size,
        "how much TFLite files take: on the disk, zipped, in memory, by layer and tensor",
        "example: bramble-bench size float32.tflite int8.tflite",
    )
    size.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="TFLite files")
    _add_train(commands)
    _command(
        commands,
        "environment",
        _environment,
        "the machine: board, system, processors, governor, temperature, versions",
        "example: bramble-bench environment --json",
    )
    return parser


def _add_latency(commands: Any) -> None:
    parser = _command(
        commands,
        "latency",
        _latency,
        "how fast TFLite files answer, warm-up apart",
        "example: bramble-bench latency float32.tflite int8.tflite --threads 1,4",
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="TFLite files")
    parser.add_argument(
        "--threads", type=_counts, default=(1,), metavar="N,N", help="numbers of threads (default: 1)"
    )
    parser.add_argument(
        "--precision",
        type=_percent,
        default=0.01,
        metavar="PERCENT",
        help="stop when the median is known to this (95 %% interval; default: 1)",
    )
    _add_seconds(parser, "or after this many seconds of timing a file (default: %(default)g)")
    parser.add_argument(
        "--warm-up", type=_seconds, default=0.2, metavar="S", help="seconds before it (default: %(default)g)"
    )


def _add_train(commands: Any) -> None:
    parser = _command(
        commands,
        "train",
        _train,
        "a training step of our program in the TFLite runtime against Keras, each in a fresh process",
        "example: bramble-bench train --model small_cnn --input 64x64x1 --batch 16 --threads 1 --json",
    )
    parser.add_argument(
        "--model", default="small_cnn", help="of the zoo, or module:function (default: small_cnn)"
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="FILE", help="a compiled bundle instead, without Keras"
    )
    parser.add_argument(
        "--input", type=parse_shape, default=(64, 64, 1), metavar="SHAPE", help="default: 64x64x1"
    )
    parser.add_argument("--classes", type=_count, default=2, metavar="N", help="default: %(default)s")
    parser.add_argument("--batch", type=_count, default=16, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=_count, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--optimizer", choices=get_args(Optimizer), default="adam", help="default: adam")
    _add_seconds(parser, "seconds of timing for each engine (default: %(default)g)")


def _add_seconds(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--max-seconds", type=_seconds, default=10.0, metavar="S", help=text)


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, epilog: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON, the environment in it")
    parser.set_defaults(command=run)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 4096")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _percent(text: str) -> float:
    try:
        value = float(text.rstrip("%"))
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 50:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage from 0.01 to 50")
    return value / 100


# ---- the commands ----


def _latency(arguments: argparse.Namespace) -> int:
    rule = TimingRule(warm_up_s=arguments.warm_up, precision=arguments.precision, max_s=arguments.max_seconds)
    environment = read_environment()
    with progress_bar() as report:
        results = benchmark_latency(arguments.models, threads=arguments.threads, rule=rule, report=report)
    words = latency_verdict(results)
    plain = {"models": [asdict(result) for result in results], "verdict": words}
    return _print(arguments, "latency", environment, plain, f"{latency_text(results)}\n\n{words}")


def _size(arguments: argparse.Namespace) -> int:
    environment = read_environment()
    results = benchmark_size(arguments.models)
    plain = {"models": [asdict(result) | {"sparsity": result.report.sparsity} for result in results]}
    return _print(arguments, "size", environment, plain, size_text(results))


def _train(arguments: argparse.Namespace) -> int:
    environment = read_environment()
    with progress_bar() as report:
        if arguments.bundle is not None:
            result = benchmark_bundle(
                arguments.bundle, threads=arguments.threads, max_s=arguments.max_seconds, report=report
            )
        else:
            result = benchmark_training(
                arguments.model,
                input_shape=arguments.input,
                classes=arguments.classes,
                batch=arguments.batch,
                threads=arguments.threads,
                optimizer=arguments.optimizer,
                max_s=arguments.max_seconds,
                report=report,
            )
    words = training_verdict(result)
    return _print(
        arguments,
        "train",
        environment,
        asdict(result) | {"verdict": words},
        f"{training_text(result)}\n\n{words}",
    )


def _environment(arguments: argparse.Namespace) -> int:
    environment = read_environment()
    return _print(arguments, "environment", environment, {}, environment_text(environment))


def _print(
    arguments: argparse.Namespace, kind: str, environment: Environment, plain: dict[str, Any], text: str
) -> int:
    """The one envelope of all results."""
    if arguments.json:
        print(json.dumps({"benchmark": kind, "environment": asdict(environment), **plain}, indent=2))
    else:
        print(text if kind == "environment" else f"{text}\n\non: {environment.label}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
