"""``bramble-server``: make a fleet, run its rounds, watch the whole thing on one machine."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from broker_server import clock
from broker_server.broker.factory import OPTIONS
from broker_server.config import load_config
from broker_server.hand_commands import add_aggregate, add_evaluate
from broker_server.init_commands import add_init, show_plan
from broker_server.look_commands import add_look
from broker_server.models_commands import add_models
from broker_server.report.console import open_console
from broker_server.report.display import RoundDisplay
from broker_server.report.json_view import to_json
from broker_server.report.schema import RunReport
from broker_server.report.terminal import print_report
from broker_server.report.write import write_report
from broker_server.simulation.demo_data import DATASETS
from broker_server.strategies import STRATEGIES
from broker_server.zoo_commands import add_zoo
from compression.command_line import (
    Commands,
    command,
    count,
    number,
    program,
    rate,
    run_program,
    stop_on_signals,
)

EXAMPLES = (
    "bramble-server demo --dataset folder:images --devices 4",
    "bramble-server init ward --host 0.0.0.0",
    "bramble-server run --config ward/server.toml",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status as `run_program` gives it."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # tensorflow-model-optimization knows Keras 2 only
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser, commands = program(
        "bramble-server",
        "The workstation's side of a Bramble fleet: broker, rounds, aggregation, releases.",
        EXAMPLES,
    )
    _add_demo(commands)
    add_init(commands)
    _add_run(commands)
    add_aggregate(commands)
    add_evaluate(commands)
    add_look(commands)
    add_models(commands)
    add_zoo(commands)
    return run_program(parser, argv)


# ---- the command line ----


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="also log what happens in detail")


def _log(arguments: argparse.Namespace) -> None:
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.ERROR,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )


def _add_demo(commands: Commands) -> None:
    demo = command(
        commands,
        "demo",
        _demo,
        "a whole fleet on this machine: real clients as processes, a real broker, real data",
        "bramble-server demo --dataset npz:pneumoniamnist.npz --devices 3 --partition dirichlet:0.5",
        json="print the closing report as JSON",
    )
    demo.add_argument("--dataset", default="wisconsin", help=f"{DATASETS} (default: %(default)s)")
    demo.add_argument("--devices", type=count, help="number of clients (default: 4, or one a hospital)")
    demo.add_argument("--rounds", type=count, help="training rounds (default: what suits the data)")
    demo.add_argument("--epochs", type=count, help="local epochs in each round")
    demo.add_argument("--learning-rate", type=rate, help="of the local optimiser")
    demo.add_argument("--partition", help="iid, dirichlet:ALPHA or sizes:35,25,22,18")
    demo.add_argument("--label-column", help="of a csv or table without a column named label")
    demo.add_argument("--model", help="a model of the zoo or module:function")
    demo.add_argument(
        "--strategy", default="fedavg", metavar="NAME", help=f"{', '.join(STRATEGIES)} (default: %(default)s)"
    )
    demo.add_argument(
        "--fine-tune", type=count, default=0, metavar="EPOCHS", help="of each device alone after the rounds"
    )
    demo.add_argument(
        "--sparsity", type=zeros, default=0.0, metavar="SHARE", help="of the kernels, zero in the end: 0.8"
    )
    demo.add_argument("--fake-int8", action="store_true", help="train with int8's rounding")
    demo.add_argument("--codec", help="profile of the update codec, both directions, or auto (default: safe)")
    demo.add_argument("--broker", default="auto", help=f"{OPTIONS} (default: %(default)s)")
    demo.add_argument(
        "--out", type=Path, default=Path("bramble-demo"), help="folder for all files (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, default=7, help="of the deal and the first weights")
    demo.add_argument("--no-baselines", action="store_true", help="leave out centralised and local training")
    _add_verbose(demo)


def _add_run(commands: Commands) -> None:
    run = command(
        commands,
        "run",
        _run,
        "run a fleet's rounds to the end, from wherever they stopped",
        "bramble-server run --config ward/server.toml",
        json="print the closing report as JSON",
    )
    run.add_argument(
        "--config", type=Path, default=Path("server.toml"), help="settings file (default: %(default)s)"
    )
    run.add_argument("--dry-run", action="store_true", help="start nothing: print the first round's plan")
    _add_verbose(run)


def zeros(text: str) -> float:
    """A share of zeros, as the server's settings take it."""
    return number(text, 0, 0.95, "a share of zeros from 0 to 0.95")


# ---- the commands ----


def _demo(arguments: argparse.Namespace) -> int:
    _log(arguments)
    from broker_server.demo import DemoOptions, run_demo

    options = DemoOptions(
        dataset=arguments.dataset,
        devices=arguments.devices,
        rounds=arguments.rounds,
        partition=arguments.partition,
        label_column=arguments.label_column,
        model=arguments.model,
        broker=arguments.broker,
        out=arguments.out,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        codec=arguments.codec,
        seed=arguments.seed,
        baselines=not arguments.no_baselines,
        strategy=arguments.strategy,
        fine_tune=arguments.fine_tune,
        sparsity=arguments.sparsity,
        fake_int8=arguments.fake_int8,
    )
    stop = stop_on_signals()
    with RoundDisplay(open_console(stderr=True)) as display:
        report = run_demo(options, display, stop)
    _show(report, options.out, as_json=arguments.json)
    return 130 if stop.is_set() else 0


def _run(arguments: argparse.Namespace) -> int:
    _log(arguments)
    if arguments.dry_run:
        return show_plan(load_config(arguments.config), as_json=arguments.json)
    from broker_server.enrolment import fleet_enrolment
    from broker_server.fleet import fleet_broker
    from broker_server.results import RunFacts, build_report
    from broker_server.server import Server
    from broker_server.tracking.trackers import tracked

    started = clock.now()
    config, folder = load_config(arguments.config), arguments.config.resolve().parent
    stop = stop_on_signals()
    with (
        RoundDisplay(open_console(stderr=True)) as display,
        tracked(config, display) as told,
        fleet_broker(config, folder) as broker,
        fleet_enrolment(config, broker, told) as observer,
    ):
        server = Server(config, broker, observer)
        server.run(stop)
        if server.finished:
            facts = RunFacts(dataset=f"fleet {config.fleet}", broker=broker.describe(), started=started)
            report = build_report(server.stages, config, facts)
    if not server.finished:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    _show(report, folder, as_json=arguments.json)
    return 0


def _show(report: RunReport, folder: Path, *, as_json: bool) -> None:
    page = write_report(report, folder).html.resolve()
    if as_json:
        print(to_json(report))
    else:
        print_report(report, open_console())
    print(f"report: {page}", file=sys.stderr if as_json else sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
