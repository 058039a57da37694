"""``bramble-server init``: make a fleet's directory from options, or by asking."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from broker_server.broker.factory import OPTIONS
from broker_server.config import (
    BrokerConfig,
    CodecConfig,
    ModelConfig,
    ReleaseConfig,
    RoundsConfig,
    ServerConfig,
)
from broker_server.strategies import STRATEGIES, find_strategy
from broker_server.strategies.fedper import FedPer
from compression.command_line import Commands, command, count, rate
from compression.commands import parse_shape
from compression.records import RecordError
from compression.spec import Optimizer

T = TypeVar("T")
FIRST_MODEL = {"image": "small_cnn", "table": "small_mlp"}


def add_init(commands: Commands) -> None:
    """Add ``init``."""
    parser = command(
        commands,
        "init",
        run_init,
        "make a fleet's directory: signing key, certificate authority, settings; asks on a terminal",
        "bramble-server init ward --host 0.0.0.0 --name workstation.local --devices 4 --yes",
        "bramble-server init ward --dry-run",
    )
    parser.add_argument("directory", type=Path, help="folder to make")
    parser.add_argument("--fleet", help="the fleet's name (default: the folder's)")
    parser.add_argument("--kind", choices=("image", "table"), help="of the devices' data (default: image)")
    parser.add_argument("--model", help="a model of the zoo or module:function (default: a small one)")
    parser.add_argument(
        "--input", type=parse_shape, metavar="SHAPE", help="of pictures, as 64x64x1 (default) or 128x128x3"
    )
    parser.add_argument("--rounds", type=count, metavar="N", help="default: 15")
    parser.add_argument("--epochs", type=count, metavar="N", help="of each round (default: 1)")
    parser.add_argument("--learning-rate", type=rate, metavar="R", help="of the devices (default: 0.001)")
    parser.add_argument("--devices", type=count, metavar="N", help="to wait for at the start (default: 2)")
    parser.add_argument(
        "--optimizer", choices=get_args(Optimizer), help="of the devices (default: adam, or sgd)"
    )
    parser.add_argument("--strategy", choices=sorted(STRATEGIES), help="default: fedavg")
    parser.add_argument("--codec", help="profile of the update codec both ways, or auto (default: safe)")
    _add_broker(parser)
    parser.add_argument("--yes", action="store_true", help="ask nothing: defaults for what is left out")
    parser.add_argument("--dry-run", action="store_true", help="write nothing: print the first round's plan")


def _add_broker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--broker", default="auto", help=f"{OPTIONS} (default: %(default)s)")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1; 0.0.0.0: the network)")
    parser.add_argument(
        "--name",
        action="append",
        dest="names",
        help="a name or address under which devices know this machine; may be repeated",
    )
    parser.add_argument("--port", type=int, default=8883, help="of the broker (default: %(default)s)")


def run_init(arguments: argparse.Namespace) -> int:
    """Make the fleet, or say what its first round would be; 0."""
    if sys.stdin.isatty() and sys.stderr.isatty() and not arguments.yes:
        ask_missing(arguments, _ask)
    config = settings_of(arguments)
    if arguments.dry_run:
        return show_plan(config, as_json=arguments.json)
    from broker_server.fleet import create_fleet
    from provisioning.pki.signing import load_signing_key

    settings = create_fleet(arguments.directory, config)
    key = load_signing_key(arguments.directory / config.keys).public_hex
    if arguments.json:
        print(json.dumps({"fleet": config.fleet, "settings": str(settings), "server_key": key}))
        return 0
    print(f"made fleet {config.fleet}: {settings}")
    print(f"server_key for the devices' edge.toml: {key}")
    print(f"next: bramble-server run --config {settings}")
    return 0


def show_plan(config: ServerConfig, *, as_json: bool) -> int:
    """Print the plan of the first round; 0."""
    from broker_server.first_round import first_round_text, plan_first_round

    plan = plan_first_round(config)
    print(json.dumps(asdict(plan), indent=2) if as_json else first_round_text(plan))
    return 0


# ---- from options to settings ----


def settings_of(arguments: argparse.Namespace) -> ServerConfig:
    """The settings that options and defaults come to; raise `RecordError` for what cannot be."""
    devices = arguments.devices or 2
    kind = arguments.kind or "image"
    strategy = find_strategy(arguments.strategy or "fedavg")
    return ServerConfig(
        fleet=arguments.fleet or arguments.directory.resolve().name,
        broker=BrokerConfig(
            kind=arguments.broker,
            port=arguments.port,
            host=arguments.host or "127.0.0.1",
            names=tuple(arguments.names or ()),
        ),
        model=_model(arguments, kind, "sgd" if strategy.problem("adam") else "adam"),
        rounds=RoundsConfig(
            rounds=arguments.rounds or 15,
            epochs=arguments.epochs or 1,
            learning_rate=arguments.learning_rate or 1e-3,
            quorum=min(2, devices),
            wait_for=devices,
        ),
        strategy=strategy,
        codec=CodecConfig(up=arguments.codec or "safe", down=arguments.codec or "safe"),
        release=ReleaseConfig(
            enabled=not isinstance(strategy, FedPer)
        ),  # it leaves no whole model to release
    )


def _model(arguments: argparse.Namespace, kind: Any, usual: Optimizer) -> ModelConfig:
    name = arguments.model or FIRST_MODEL[kind]
    optimizer: Optimizer = arguments.optimizer or usual
    if kind == "table":
        return ModelConfig(name=name, kind=kind, optimizer=optimizer)
    shape = arguments.input or (64, 64, 1)
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise RecordError("--input: pictures have HEIGHTxWIDTHxCHANNELS, with 1 or 3 channels")
    channels: Literal[1, 3] = 3 if shape[2] == 3 else 1
    return ModelConfig(
        name=name, kind=kind, height=shape[0], width=shape[1], channels=channels, optimizer=optimizer
    )


# ---- asking ----


def ask_missing(arguments: argparse.Namespace, ask: Callable[[str, str], str]) -> None:
    """Ask for what no option gave; an empty answer takes the default."""

    def answer(option: str, question: str, default: str, read: Callable[[str], T]) -> None:
        if getattr(arguments, option) is None:
            setattr(arguments, option, _answer(ask, question, default, read))

    answer("fleet", "Name of the fleet", arguments.directory.resolve().name, str)
    answer("kind", "The devices' data, image or table", "image", _one_of("image", "table"))
    answer("model", "Model, of the zoo or module:function", FIRST_MODEL[arguments.kind], str)
    if arguments.kind == "image":
        answer("input", "Size of the pictures", "64x64x1", parse_shape)
    answer("devices", "Devices to wait for", "2", count)
    answer("rounds", "Rounds", "15", count)
    answer("strategy", f"Strategy ({', '.join(STRATEGIES)})", "fedavg", _one_of(*STRATEGIES))
    answer("host", "Address to listen on, 0.0.0.0 for the network", "127.0.0.1", str)
    answer("names", "Names under which devices know this machine, with commas", "", _names)


def _answer(ask: Callable[[str, str], str], question: str, default: str, read: Callable[[str], T]) -> T:
    while True:
        text = ask(question, default).strip() or default
        try:
            return read(text)
        except (argparse.ArgumentTypeError, ValueError) as exc:
            print(exc, file=sys.stderr)


def _ask(question: str, default: str) -> str:
    print(f"{question} [{default}]: " if default else f"{question}: ", end="", file=sys.stderr, flush=True)
    return input()


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return read


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
