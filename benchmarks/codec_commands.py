"""``bramble-bench wire`` and ``bramble-bench accuracy-bytes``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from benchmarks.codec_text import accuracy_text, verdict, wire_text
from benchmarks.codecs import CODECS
from benchmarks.federation_options import add_federation, add_plot, plan_of
from benchmarks.output import add_saving, emit
from benchmarks.wire import benchmark_wire
from compression.command_line import Commands, command, count, fraction, names, natural, seconds
from compression.progress import progress_bar
from edge_client.measure.environment import read_environment


def add_wire(commands: Commands) -> None:
    """How small and how fast codecs are."""
    parser = command(
        commands,
        "wire",
        _wire,
        "what codecs make of one update: bytes, likeness, seconds, memory; made-up values, one core",
        "bramble-bench wire --parameters 5000000 --codecs safe,small,stc-1 --json",
    )
    parser.add_argument(
        "--parameters", type=count, default=5_000_000, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--codecs", type=names, default=(), metavar="A,B", help=f"default: all, {', '.join(CODECS)}"
    )
    parser.add_argument(
        "--seed", type=natural, default=0, metavar="N", help="of the update (default: %(default)s)"
    )
    parser.add_argument(
        "--max-seconds",
        type=seconds,
        default=2.0,
        metavar="S",
        help="seconds of timing for each codec and direction, at least 5 runs (default: %(default)g)",
    )
    add_saving(parser)


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
    add_federation(parser, learning_rate=1e-3)
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
    add_plot(parser, "accuracy against bytes")
    add_saving(parser)


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
    plain = {"rows": [asdict(result) for result in results]}
    return emit(arguments, "wire", environment, plain, wire_text(results), rows="rows")


def _accuracy_bytes(arguments: argparse.Namespace) -> int:
    from benchmarks.accuracy_bytes import benchmark_accuracy  # noqa: PLC0415 - needs the server's packages
    from benchmarks.plot import check_plot_file, draw_accuracy  # noqa: PLC0415

    if arguments.plot is not None:
        check_plot_file(arguments.plot)
    plan = plan_of(arguments)
    environment = read_environment()
    with progress_bar() as report:
        results = benchmark_accuracy(
            plan, arguments.codecs, seeds=arguments.seeds, target=arguments.target, report=report
        )
    if arguments.plot is not None:
        draw_accuracy(results, arguments.plot)
    plain = {"rows": [asdict(result) for result in results], "verdict": verdict(results)}
    return emit(arguments, "accuracy-bytes", environment, plain, accuracy_text(results), rows="rows")
