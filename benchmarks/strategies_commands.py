"""``bramble-bench strategies``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from benchmarks.federation_options import add_federation, add_plot, plan_of
from benchmarks.output import add_saving, emit
from benchmarks.strategies_text import draw_strategies, strategies_text
from compression.command_line import Commands, command, count, names
from compression.progress import progress_bar
from compression.spec import Optimizer
from edge_client.measure.environment import read_environment

OPTIMIZERS: tuple[Optimizer, ...] = ("sgd", "momentum", "nesterov", "adam", "adamw")
SGD_RATE = 0.05
OWN_SHARE = 0.2  # of a client's examples, kept for its own evaluation
USUAL = ("fedavg", "fedprox", "scaffold", "fednova", "fedavgm", "fedadam", "fedyogi", "fedbuff", "fedper")


def add_strategies(commands: Commands) -> None:
    """Strategies side by side."""
    parser = command(
        commands,
        "strategies",
        _strategies,
        "federated training in this process, strategy after strategy: accuracy by round, over several seeds",
        "bramble-bench strategies --dataset folder:chest_xray --clients 10 --partition dirichlet:0.1 \\\n"
        "           --rounds 20 --seeds 3 --strategies fedavg,fedprox:mu=0.1,scaffold --plot curves.svg",
    )
    add_federation(parser, learning_rate=SGD_RATE)
    parser.add_argument(
        "--strategies",
        type=names,
        default=USUAL,
        metavar="A,B",
        help=f"as NAME or NAME:PARAMETER=NUMBER;... (default: {','.join(USUAL)})",
    )
    parser.add_argument(
        "--optimizer", choices=OPTIMIZERS, default="sgd", help="of the clients (default: %(default)s)"
    )
    parser.add_argument("--codec", default="safe", help="of both directions (default: %(default)s)")
    parser.add_argument(
        "--fine-tune", type=count, default=0, metavar="EPOCHS", help="of each client alone after the rounds"
    )
    add_plot(parser, "accuracy by round")
    add_saving(parser)


def _strategies(arguments: argparse.Namespace) -> int:
    from benchmarks.plot import check_plot_file  # noqa: PLC0415 - needs the server's packages
    from benchmarks.strategies import benchmark_strategies  # noqa: PLC0415

    if arguments.plot is not None:
        check_plot_file(arguments.plot)
    plan = plan_of(arguments, optimizer=arguments.optimizer, validation_fraction=OWN_SHARE)
    environment = read_environment()
    with progress_bar() as report:
        results = benchmark_strategies(
            plan,
            arguments.strategies,
            seeds=arguments.seeds,
            codec=arguments.codec,
            fine_tune=arguments.fine_tune,
            report=report,
        )
    if arguments.plot is not None:
        draw_strategies(results, arguments.plot)
    plain = {"rows": [asdict(result) for result in results]}
    return emit(arguments, "strategies", environment, plain, strategies_text(results), rows="rows")
