"""The options of every benchmark that trains a federation in this process."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from compression.command_line import count, rate
from compression.commands import parse_shape
from compression.spec import Optimizer

if TYPE_CHECKING:
    from benchmarks.federation import Plan


def add_federation(parser: argparse.ArgumentParser, *, learning_rate: float) -> None:
    """Data, model and rounds."""
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
        "--model", help="of the zoo, or module:function (default: small_cnn, small_mlp for tables)"
    )
    parser.add_argument(
        "--input", type=parse_shape, metavar="SHAPE", help="of pictures (default: theirs, at most 64x64)"
    )
    parser.add_argument("--batch", type=count, default=16, metavar="N", help="default: %(default)s")
    parser.add_argument("--epochs", type=count, default=1, metavar="N", help="a round (default: %(default)s)")
    parser.add_argument(
        "--learning-rate", type=rate, default=learning_rate, metavar="R", help="default: %(default)g"
    )


def add_plot(parser: argparse.ArgumentParser, what: str) -> None:
    """Where to draw the result."""
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw {what}: .svg, .png or .pdf")


def plan_of(
    arguments: argparse.Namespace, *, optimizer: Optimizer = "adam", validation_fraction: float = 0.0
) -> Plan:
    """What the options say."""
    from benchmarks.federation import Plan  # noqa: PLC0415 - needs the server's packages

    return Plan(
        dataset=arguments.dataset,
        clients=arguments.clients,
        partition=arguments.partition,
        rounds=arguments.rounds,
        model=arguments.model,
        input=arguments.input,
        batch=arguments.batch,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        optimizer=optimizer,
        validation_fraction=validation_fraction,
    )
