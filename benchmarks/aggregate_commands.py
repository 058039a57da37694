"""``bramble-bench aggregate``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from benchmarks.aggregate import AggregateResult, benchmark_aggregate, verdict
from benchmarks.output import add_saving, emit
from compression.command_line import Commands, command, count
from compression.progress import progress_bar
from compression.text_table import bytes_text, text_table
from compression.updates import PROFILES
from edge_client.measure.environment import read_environment


def add_aggregate(commands: Commands) -> None:
    """Add ``aggregate``."""
    parser = command(
        commands,
        "aggregate",
        run_aggregate,
        "what averaging updates costs the server, beside plain NumPy and the speed of memory; one core",
        "bramble-bench aggregate --updates 1000 --parameters 1000000 --json",
        json="print JSON, the environment in it",
    )
    parser.add_argument("--updates", type=count, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--parameters", type=count, default=1_000_000, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--codec", choices=sorted(PROFILES), default="safe", help="default: %(default)s")
    add_saving(parser)


def run_aggregate(arguments: argparse.Namespace) -> int:
    """Measure and print; 0."""
    environment = read_environment()
    with progress_bar() as report:
        result = benchmark_aggregate(
            arguments.updates, arguments.parameters, codec=arguments.codec, report=report
        )
    words = verdict(result)
    plain = asdict(result) | {"verdict": words}
    return emit(arguments, "aggregate", environment, plain, f"{_text(result)}\n\n{words}")


def _text(result: AggregateResult) -> str:
    rows = [
        ["read, decode, check, add", f"{1e3 * result.s_per_update:.3f}"],
        ["plain NumPy, in memory already", f"{1e3 * result.numpy_s_per_update:.3f}"],
        [f"memory at {result.copy_gb_per_s:.1f} GB/s", f"{1e3 * result.bandwidth_bound_s_per_update:.3f}"],
    ]
    title = f"{result.codec}, {bytes_text(result.payload_bytes)} an update"
    return text_table([title, "CPU ms/update"], rows)
