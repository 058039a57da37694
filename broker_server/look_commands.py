"""``bramble-server status``, ``rounds`` and ``devices``: what the ledger says, during a run and after."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from broker_server.config import load_config
from broker_server.look import FleetView, look_at_fleet
from compression.command_line import Commands, Run, command, count
from compression.text_table import bytes_text, text_table

NO_ROUNDS = "no round is finished yet"


def add_look(commands: Commands) -> None:
    """Add ``status``, ``rounds`` and ``devices``."""
    _add(commands, "status", run_status, "where the run is: round, stage, accuracy, what went wrong last")
    rounds = _add(
        commands, "rounds", run_rounds, "every round; or one, with each device and why it was asked"
    )
    rounds.add_argument("round", type=count, nargs="?", metavar="ROUND")
    _add(commands, "devices", run_devices, "every device: board, runtime, examples, rounds, temperature")


def _add(commands: Commands, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    parser = command(commands, name, run, summary, f"bramble-server {name} --config ward/server.toml")
    parser.add_argument(
        "--config", type=Path, default=Path("server.toml"), help="settings file (default: %(default)s)"
    )
    return parser


def run_status(arguments: argparse.Namespace) -> int:
    """Print; 0."""
    return _show(arguments, FleetView.status, _status_text)


def run_rounds(arguments: argparse.Namespace) -> int:
    """Print; 0."""
    if arguments.round is None:
        return _show(arguments, FleetView.rounds, _rounds_text)
    return _show(arguments, lambda view: view.round(arguments.round), _round_text)


def run_devices(arguments: argparse.Namespace) -> int:
    """Print; 0."""
    return _show(arguments, FleetView.devices, _devices_text)


def _show(
    arguments: argparse.Namespace, look: Callable[[FleetView], Any], words: Callable[[Any], str]
) -> int:
    with look_at_fleet(load_config(arguments.config)) as view:
        plain = look(view)
    print(json.dumps(plain, indent=2) if arguments.json else words(plain))
    return 0


# ---- words ----


def _status_text(status: dict[str, Any]) -> str:
    accuracy = _figure(status["accuracy"])
    lines = [
        f"fleet {status['fleet']}: server {status['server']}, {status['devices']} devices, "
        f"{status['strategy']}",
        f"{status['rounds']} of {status['rounds_planned']} rounds, version {status['version']}, "
        f"accuracy {accuracy}",
    ]
    if status["stage"] == "finished":
        lines.append("the run is finished")
    elif status["task"] is not None:
        lines.append(f"at work: {status['stage']}, task {status['task']}, {status['results']} results so far")
    else:
        lines.append(f"next: {status['stage']}")
    if status["model"]:
        lines.append(f"model {status['model']} answers on the devices")
    lines += [f"warning: it does badly on {name}: {why}" for name, why in status["doing_badly"].items()]
    for incident in status["incidents"]:
        when = datetime.fromtimestamp(incident["at"])
        lines.append(f"{when:%Y-%m-%d %H:%M:%S}  {incident['who']}: {incident['what']}; {incident['remedy']}")
    return "\n".join(lines)


def _rounds_text(rounds: list[dict[str, Any]]) -> str:
    header = ["round", "clients", "lost", "examples", "accuracy", "loss", "up", "down", "codec", "seconds"]
    rows = [
        [
            str(each["round"]),
            str(each["clients"]),
            str(each["lost"]),
            str(each["examples"]),
            _figure(each["accuracy"]),
            _figure(each["loss"]),
            bytes_text(each["bytes_up"]),
            bytes_text(each["bytes_down"]),
            each["codec_up"],
            f"{each['seconds']:.1f}",
        ]
        for each in rounds
    ]
    return text_table(header, rows) if rows else NO_ROUNDS


def _round_text(details: dict[str, Any]) -> str:
    header = ["device", "examples", "loss", "seconds", "up", "down", "why"]
    why = details["chosen"]
    rows = [
        [
            name,
            str(part["examples"]),
            _figure(part["loss"]),
            f"{part['seconds']:.1f}",
            bytes_text(part["bytes_up"]),
            bytes_text(part["bytes_down"]),
            why.get(name, "-"),
        ]
        for name, part in details["parts"].items()
    ]
    lines = [_rounds_text([details]), "", f"asked: {details['rule']}", text_table(header, rows)]
    lines += [f"{name}: lost, {reason}" for name, reason in details["dropped"].items()]
    lines += [f"{name}: told to stop, there were enough" for name in details["released"]]
    lines += [f"{name}: not asked, {reason}" for name, reason in details["passed"].items()]
    return "\n".join(lines)


def _devices_text(devices: list[dict[str, Any]]) -> str:
    header = [
        "device",
        "examples",
        "rounds",
        "lost",
        "model",
        "runtime",
        "cores",
        "memory",
        "C",
        "last hello",
    ]
    now = time.time()
    rows = [
        [
            each["device"],
            str(each["examples"]),
            str(each["rounds"]),
            str(each["dropped"]),
            str(each["model_version"] or "-"),
            each["runtime"],
            str(each["cores"]),
            f"{each['memory_mb'] / 1000:.1f} GB",
            "-" if each["temperature_c"] is None else f"{each['temperature_c']:.0f}",
            _ago(now - each["last_hello"]),
        ]
        for each in devices
    ]
    return text_table(header, rows) if rows else "no device has said hello yet"


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
