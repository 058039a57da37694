"""``bramble-bench size``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from benchmarks.output import add_saving, emit
from benchmarks.size import benchmark_size
from benchmarks.text import size_text
from compression.command_line import Commands, command
from compression.progress import progress_bar
from edge_client.measure.environment import read_environment


def add_size(commands: Commands) -> None:
    """Add ``size``."""
    parser = command(
        commands,
        "size",
        _size,
        "how much TFLite files take: on the disk, zipped, in memory, by layer and tensor",
        "bramble-bench size float32.tflite int8.tflite",
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="TFLite files")
    add_saving(parser)


def _size(arguments: argparse.Namespace) -> int:
    environment = read_environment()
    with progress_bar() as report:
        results = benchmark_size(arguments.models, report=report)
    plain = {"models": [asdict(result) | {"sparsity": result.report.sparsity} for result in results]}
    return emit(arguments, "size", environment, plain, size_text(results))
