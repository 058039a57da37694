"""``bramble-bench``: what a machine can do, measured, with the machine beside the figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from benchmarks.aggregate_commands import add_aggregate
from benchmarks.codec_commands import add_accuracy_bytes, add_wire
from benchmarks.environment import Environment, read_environment
from benchmarks.flash_commands import add_flash
from benchmarks.latency import benchmark_latency
from benchmarks.latency import verdict as latency_verdict
from benchmarks.size import benchmark_size
from benchmarks.strategies_commands import add_strategies
from benchmarks.text import environment_text, latency_text, size_text, training_text
from benchmarks.timing import TimingRule
from benchmarks.training import benchmark_bundle, benchmark_training
from benchmarks.training import verdict as training_verdict
from compression.command_line import (
    Commands,
    command,
    count,
    counts,
    percent,
    program,
    run_program,
    seconds,
)
from compression.commands import parse_shape
from compression.progress import progress_bar
from compression.spec import Optimizer

EXAMPLES = (
    "bramble-bench latency float32.tflite int8.tflite",
    "bramble-bench train --model small_cnn --input 64x64x1 --batch 16",
    "bramble-bench wire --parameters 5000000",
    "bramble-bench accuracy-bytes --dataset npz:pneumoniamnist.npz --codecs float32,small --plot curve.svg",
    "bramble-bench flash --size-mb 1024 --compression xz,zst",
    "bramble-bench environment --json",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status as `run_program` gives it."""
    parser, commands = program(
        "bramble-bench", "Measure models, training and codecs on this machine.", EXAMPLES
    )
    _add_latency(commands)
    _add_size(commands)
    _add_train(commands)
    add_wire(commands)
    add_accuracy_bytes(commands)
    add_strategies(commands)
    add_aggregate(commands)
    add_flash(commands)
    _add_environment(commands)
    return run_program(parser, argv)


# ---- the command line ----


def _add_size(commands: Commands) -> None:
    parser = command(
        commands,
        "size",
        _size,
        "how much TFLite files take: on the disk, zipped, in memory, by layer and tensor",
        "bramble-bench size float32.tflite int8.tflite",
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="TFLite files")


def _add_environment(commands: Commands) -> None:
    command(
        commands,
        "environment",
        _environment,
        "the machine: board, system, processors, governor, temperature, versions",
        "bramble-bench environment --json",
    )


def _add_latency(commands: Commands) -> None:
    parser = command(
        commands,
        "latency",
        _latency,
        "how fast TFLite files answer, warm-up apart",
        "bramble-bench latency float32.tflite int8.tflite --threads 1,4",
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="TFLite files")
    parser.add_argument(
        "--threads", type=counts, default=(1,), metavar="N,N", help="numbers of threads (default: 1)"
    )
    parser.add_argument(
        "--precision",
        type=percent,
        default=0.01,
        metavar="PERCENT",
        help="stop when the median is known to this (95 %% interval; default: 1)",
    )
    _add_seconds(parser, "or after this many seconds of timing a file (default: %(default)g)")
    parser.add_argument(
        "--warm-up", type=seconds, default=0.2, metavar="S", help="seconds before it (default: %(default)g)"
    )


def _add_train(commands: Commands) -> None:
    parser = command(
        commands,
        "train",
        _train,
        "a training step of our program in the TFLite runtime against Keras, each in a fresh process",
        "bramble-bench train --model small_cnn --input 64x64x1 --batch 16 --threads 1 --json",
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
    parser.add_argument("--classes", type=count, default=2, metavar="N", help="default: %(default)s")
    parser.add_argument("--batch", type=count, default=16, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--optimizer", choices=get_args(Optimizer), default="adam", help="default: adam")
    _add_seconds(parser, "seconds of timing for each engine (default: %(default)g)")


def _add_seconds(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--max-seconds", type=seconds, default=10.0, metavar="S", help=text)


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
