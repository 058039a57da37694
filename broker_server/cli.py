"""``bramble-server``: make a fleet, run its rounds, watch the whole thing on one machine."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from broker_server.broker.base import BrokerError
from broker_server.broker.factory import OPTIONS
from broker_server.config import BrokerConfig, ModelConfig, RoundsConfig, ServerConfig, load_config
from broker_server.report.console import open_console
from broker_server.report.display import RoundDisplay
from broker_server.report.json_view import to_json
from broker_server.report.schema import RunReport
from broker_server.report.terminal import print_report
from broker_server.report.write import write_report
from broker_server.simulation.demo_data import DATASETS
from compression.records import RecordError
from compression.spec import SpecError
from edge_client.config import ConfigError
from edge_client.data import DataError
from edge_client.session.address import AddressError
from edge_client.session.mqtt import SessionError
from provisioning.pki.errors import PkiError

EXPECTED = (
    AddressError,
    BrokerError,
    ConfigError,
    DataError,
    PkiError,
    RecordError,
    SessionError,
    OSError,
    sqlite3.Error,
    SpecError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # tensorflow-model-optimization knows Keras 2 only
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.ERROR,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except _expected() as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _expected() -> tuple[type[Exception], ...]:
    from broker_server.demo import DemoError
    from broker_server.models import ModelError
    from broker_server.stages import RunError
    from broker_server.store.ledger import LedgerError
    from compression.models.errors import ExportError

    return (*EXPECTED, DemoError, ExportError, LedgerError, ModelError, RunError)


# ---- the command line ----


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bramble-server",
        description="The workstation's side of a Bramble fleet: broker, rounds, aggregation, releases.",
        epilog="example: bramble-server demo --dataset folder:images --devices 4",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_init(commands)
    _add_run(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: Commands, name: str, function: Callable[[argparse.Namespace], int], summary: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="also log what happens in detail")
    parser.set_defaults(command=function)
    return parser


def _add_demo(commands: Commands) -> None:
    demo = _command(
        commands,
        "demo",
        _demo,
        "a whole fleet on this machine: real clients as processes, a real broker, real data",
        "bramble-server demo --dataset npz:pneumoniamnist.npz --devices 3 --partition dirichlet:0.5",
    )
    demo.add_argument("--dataset", default="wisconsin", help=f"{DATASETS} (default: %(default)s)")
    demo.add_argument("--devices", type=_positive, help="number of clients (default: 4, or one a hospital)")
    demo.add_argument("--rounds", type=_positive, help="training rounds (default: what suits the data)")
    demo.add_argument("--epochs", type=_positive, help="local epochs in each round")
    demo.add_argument("--learning-rate", type=_positive_float, help="of the local optimiser")
    demo.add_argument("--partition", help="iid, dirichlet:ALPHA or sizes:35,25,22,18")
    demo.add_argument("--label-column", help="of a csv or table without a column named label")
    demo.add_argument("--model", help="a model of the zoo or module:function")
    demo.add_argument("--codec", help="profile of the update codec, both directions (default: safe)")
    demo.add_argument("--broker", default="auto", help=f"{OPTIONS} (default: %(default)s)")
    demo.add_argument(
        "--out", type=Path, default=Path("bramble-demo"), help="folder for all files (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, default=7, help="of the deal and the first weights")
    demo.add_argument("--no-baselines", action="store_true", help="leave out centralised and local training")
    demo.add_argument("--json", action="store_true", help="print the closing report as JSON")


def _add_init(commands: Commands) -> None:
    init = _command(
        commands,
        "init",
        _init,
        "make a fleet's directory: signing key, certificate authority, settings",
        "bramble-server init ward --fleet ward --model small_cnn",
    )
    init.add_argument("directory", type=Path, help="folder to make")
    init.add_argument("--fleet", help="the fleet's name (default: the folder's)")
    init.add_argument("--model", default="small_cnn", help="a model of the zoo or module:function")
    init.add_argument("--kind", choices=("image", "table"), default="image", help="of the devices' data")
    init.add_argument("--rounds", type=_positive, default=15, help="training rounds (default: %(default)s)")
    init.add_argument("--devices", type=_positive, default=2, help="to wait for before the first round")
    init.add_argument("--broker", default="auto", help=f"{OPTIONS} (default: %(default)s)")
    init.add_argument("--host", default="127.0.0.1", help="address to listen on (0.0.0.0: the network)")
    init.add_argument(
        "--name",
        action="append",
        default=[],
        dest="names",
        help="a name or address under which devices know this machine; may be repeated",
    )
    init.add_argument("--port", type=int, default=8883, help="of the broker (default: %(default)s)")


def _add_run(commands: Commands) -> None:
    run = _command(
        commands,
        "run",
        _run,
        "run a fleet's rounds to the end, from wherever they stopped",
        "bramble-server run --config ward/server.toml",
    )
    run.add_argument(
        "--config", type=Path, default=Path("server.toml"), help="settings file (default: %(default)s)"
    )
    run.add_argument("--json", action="store_true", help="print the closing report as JSON")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0, got {number}")
    return number


# ---- the commands ----


def _demo(arguments: argparse.Namespace) -> int:
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
    )
    stop = _stop_on_signals()
    with RoundDisplay(open_console(stderr=True)) as display:
        report = run_demo(options, display, stop)
    _show(report, options.out, as_json=arguments.json)
    return 130 if stop.is_set() else 0


def _init(arguments: argparse.Namespace) -> int:
    from broker_server.fleet import create_fleet
    from provisioning.pki.signing import load_signing_key

    config = ServerConfig(
        fleet=arguments.fleet or arguments.directory.resolve().name,
        broker=BrokerConfig(
            kind=arguments.broker, port=arguments.port, host=arguments.host, names=tuple(arguments.names)
        ),
        model=ModelConfig(name=arguments.model, kind=arguments.kind),
        rounds=RoundsConfig(
            rounds=arguments.rounds, quorum=min(2, arguments.devices), wait_for=arguments.devices
        ),
    )
    settings = create_fleet(arguments.directory, config)
    key = load_signing_key(arguments.directory / config.keys).public_hex
    print(f"made fleet {config.fleet}: {settings}")
    print(f"server_key for the devices' edge.toml: {key}")
    print(f"next: bramble-server run --config {settings}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from broker_server.fleet import fleet_broker
    from broker_server.results import RunFacts, build_report
    from broker_server.server import Server

    started = time.time()
    config, folder = load_config(arguments.config), arguments.config.resolve().parent
    stop = _stop_on_signals()
    with RoundDisplay(open_console(stderr=True)) as display, fleet_broker(config, folder) as broker:
        server = Server(config, broker, display)
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


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():  # the second time somebody means it
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


if __name__ == "__main__":
    sys.exit(main())
