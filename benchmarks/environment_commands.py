"""``bramble-bench environment``."""

from __future__ import annotations

import argparse

from benchmarks.output import add_saving, emit
from benchmarks.text import environment_text
from compression.command_line import Commands, command
from edge_client.measure.environment import read_environment


def add_environment(commands: Commands) -> None:
    """Add ``environment``."""
    parser = command(
        commands,
        "environment",
        _environment,
        "the machine: board, system, processors, governor, temperature, versions",
        "bramble-bench environment --json",
    )
    add_saving(parser)


def _environment(arguments: argparse.Namespace) -> int:
    environment = read_environment()
    return emit(arguments, "environment", environment, {}, environment_text(environment))
