"""``bramble-bench train``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from benchmarks.output import add_saving, emit
from benchmarks.text import training_text
from benchmarks.training import benchmark_bundle, benchmark_training, verdict
from compression.command_line import Commands, command, count, seconds
from compression.commands import parse_shape
from compression.progress import progress_bar
from compression.spec import Optimizer
from edge_client.measure.environment import read_environment


def add_train(commands: Commands) -> None:
    """Add ``train``."""
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
    parser.add_argument(
        "--max-seconds",
        type=seconds,
        default=10.0,
        metavar="S",
        help="seconds of timing for each engine (default: %(default)g)",
    )
    add_saving(parser)


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
    words = verdict(result)
    text = f"{training_text(result)}\n\n{words}"
    return emit(arguments, "train", environment, asdict(result) | {"verdict": words}, text)
