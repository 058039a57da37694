"""``bramble-bench wire`` and ``bramble-bench accuracy-bytes``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.codec_text import accuracy_text, wire_text
from benchmarks.codecs import CODECS
from benchmarks.environment import Environment, read_environment
from benchmarks.wire import WireResult, benchmark_wire
from compression.command_line import Commands, command, count, fraction, names, rate, seconds
from compression.commands import parse_shape
from compression.progress import progress_bar

if TYPE_CHECKING:
    from benchmarks.accuracy_bytes import CodecResult


def add_wire(commands: Commands) -> None:
    """How small and how fast codecs are."""
    parser = command(
        commands,
        "wire",
        _wire,
        "what codecs make of one update: bytes, likeness, seconds, memory; made-up values, one core",
        "bramble-bench wire --parameters 5000000 --codecs safe,small,stc-1 --json",
    )
    parser.add_argument("--parameters", type=int, default=5_000_000, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--codecs", type=names, default=(), metavar="A,B", help=f"default: all, {', '.join(CODECS)}"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the update (default: %(default)s)"
    )
    parser.add_argument(
        "--max-seconds",
        type=seconds,
        default=2.0,
        metavar="S",
        help="seconds of timing for each codec and direction, at least 5 runs (default: %(default)g)",
    )


def add_accuracy_bytes(commands: Commands) -> None:
    """What codecs do to training."""
    parser = command(
        commands,
        "accuracy-bytes",
        _accuracy_bytes,
        "federated training in this process, codec after codec: what accuracy for how many payload bytes",
        "bramble-bench accuracy-bytes --dataset npz:pneumoniamnist.npz --clients 3 "
        "--partition dirichlet:0.5 \\\n"
        "           --rounds 15 --seeds 3 --codecs float32,safe,small,small/float32 --plot curve.svg",
    )
    parser.add_argument(
        "--dataset",
        required=True,
        help="wisconsin, folder:PATH, hospitals:PATH, csv:PATH, npz:PATH or table:PATH",
    )
    parser.add_argument("--clients", type=count, metavar="N", help="default: 3; none for hospitals")
    parser.add_argument(
        "--partition", help="iid, dirichlet:ALPHA or sizes:A,B,C (default: iid); none for hospitals"
    )
    parser.add_argument("--rounds", type=count, default=15, metavar="N", help="default: %(default)s")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--codecs",
        type=names,
        default=("float32", "safe", "small"),
        metavar="A,B",
        help=f"of {', '.join(CODECS)}; UP/DOWN for two different ones (default: float32,safe,small)",
    )
    parser.add_argument(
        "--target",
        type=fraction,
        default=0.95,
        help="accuracy whose price is asked for (default: %(default)g)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw accuracy against bytes: .svg, .png or .pdf"
    )
    _add_training(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="of the zoo, or module:function (default: small_cnn, small_mlp for tables)"
    )
    parser.add_argument(
        "--input", type=parse_shape, metavar="SHAPE", help="of pictures (default: theirs, at most 64x64)"
    )
    parser.add_argument("--batch", type=count, default=16, metavar="N", help="default: %(default)s")
    parser.add_argument("--epochs", type=count, default=1, metavar="N", help="a round (default: %(default)s)")
    parser.add_argument("--learning-rate", type=rate, default=1e-3, metavar="R", help="default: %(default)g")


def _wire(arguments: argparse.Namespace) -> int:
    environment = read_environment()
    with progress_bar() as report:
        results = benchmark_wire(
            arguments.parameters,
            codecs=arguments.codecs,
            seed=arguments.seed,
            max_s=arguments.max_seconds,
            report=report,
        )
    return _print(arguments, "wire", environment, results, wire_text(results))


def _accuracy_bytes(arguments: argparse.Namespace) -> int:
    from benchmarks.accuracy_bytes import benchmark_accuracy  # noqa: PLC0415 - needs the server's packages
    from benchmarks.federation import Plan  # noqa: PLC0415
    from benchmarks.plot import check_plot_file, draw_accuracy  # noqa: PLC0415

    if arguments.plot is not None:
        check_plot_file(arguments.plot)
    plan = Plan(
        dataset=arguments.dataset,
        clients=arguments.clients,
        partition=arguments.partition,
        rounds=arguments.rounds,
        model=arguments.model,
        input=arguments.input,
        batch=arguments.batch,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
    )
    environment = read_environment()
    with progress_bar() as report:
        results = benchmark_accuracy(
            plan, arguments.codecs, seeds=arguments.seeds, target=arguments.target, report=report
        )
    if arguments.plot is not None:
        draw_accuracy(results, arguments.plot)
    return _print(arguments, "accuracy-bytes", environment, results, accuracy_text(results))


def _print(
    arguments: argparse.Namespace,
    kind: str,
    environment: Environment,
    results: Sequence[WireResult | CodecResult],
    text: str,
) -> int:
    """A list of rows, each with the machine in it: a row that is cut out still says where it was measured."""
    if arguments.json:
        shared = {"benchmark": kind, "environment": asdict(environment)}
        print(json.dumps([asdict(result) | shared for result in results], indent=2))
    else:
        print(f"{text}\n\non: {environment.label}")
    return 0
