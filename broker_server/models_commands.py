"""``bramble-server models``: the fleet's released models, pushed, promoted, taken back, pinned, looked at."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from datetime import datetime
from pathlib import Path

from broker_server.config import ServerConfig, load_config
from broker_server.fleet import fleet_broker, ledger_path
from broker_server.rollout.orders import REFUSED, Order, await_answer, leave_order
from broker_server.rollout.planning import RolloutError
from broker_server.rollout.view import look_at_models
from broker_server.store.models import server_runs
from compression.command_line import Commands, Run, command, group, stop_on_signals
from compression.text_table import bytes_text, text_table
from edge_client.session.blobs import BlobStore

REASON = 70  # characters of one in a table
ANSWER_S = 60.0  # a server that averages or compiles answers when it is done


def add_models(commands: Commands) -> None:
    """The subcommands of ``models``."""
    models = group(
        commands,
        "models",
        "push, promote, roll back, pin and show the fleet's released models",
        "bramble-server models push pruned.tflite --config ward/server.toml",
        "bramble-server models list --config ward/server.toml",
    )
    push = _add(models, "push", _push, "roll a TFLite file out to the fleet", "push pruned.tflite")
    push.add_argument("file", type=Path, metavar="FILE", help="for the fleet's classes and preprocessing")
    push.add_argument("--recipe", default="", help="how it was made small, for the registry")
    push.add_argument("--dry-run", action="store_true", help="say whom it would reach, and send nothing")
    promote = _add(
        models, "promote", _promote, "go on with a rollout, or begin one again", "promote --everyone"
    )
    promote.add_argument(
        "version", type=int, nargs="?", default=0, metavar="VERSION", help="(default: at work)"
    )
    promote.add_argument("--everyone", action="store_true", help="all further waves at once")
    back = _add(models, "rollback", _rollback, "take the newest model back", "rollback --dry-run")
    back.add_argument(
        "version", type=int, nargs="?", default=0, metavar="VERSION", help="(default: its parent)"
    )
    back.add_argument("--dry-run", action="store_true", help="say what would be taken back, and send nothing")
    _add(models, "pause", _pause, "stop a rollout where it is", "pause")
    pin = _add(models, "pin", _pin, "keep a device at a version", "pin pi-3 4")
    pin.add_argument("device", metavar="DEVICE")
    pin.add_argument("version", type=int, metavar="VERSION")
    unpin = _add(models, "unpin", _unpin, "let a pinned device follow the fleet again", "unpin pi-3")
    unpin.add_argument("device", metavar="DEVICE")
    _add(models, "list", _list, "every version, and how far it has come", "list", orders=False)
    show = _add(models, "show", _show, "one version: its record, and every device", "show 4", orders=False)
    show.add_argument("version", type=int, metavar="VERSION")


def _add(
    models: Commands, name: str, run: Run, summary: str, example: str, *, orders: bool = True
) -> argparse.ArgumentParser:
    where = "--config ward/server.toml"
    parser = command(models, name, run, summary, f"bramble-server models {example} {where}")
    parser.add_argument(
        "--config", type=Path, default=Path("server.toml"), help="settings file (default: %(default)s)"
    )
    if orders:
        parser.add_argument(
            "--later", action="store_true", help="only write the order down; the next server carries it out"
        )
        parser.add_argument("-v", "--verbose", action="store_true", help="also log what happens in detail")
    return parser


# ---- the commands ----


def _push(arguments: argparse.Namespace) -> int:
    from broker_server.rollout.making import read_model_file
    from broker_server.rollout.planning import waves_text
    from broker_server.rollout.registry import MODELS

    data = read_model_file(arguments.file)
    config = load_config(arguments.config)
    if arguments.dry_run:
        with look_at_models(config) as view:
            preview = view.push_preview() | {"bytes": len(data)}
        waves = waves_text(preview["waves"])
        words = f"would become model {preview['version']} ({bytes_text(len(data))}), for {waves}"
        return _say(arguments, preview, f"{arguments.file.name} {words}")
    model = BlobStore(Path(config.state) / MODELS).put(data)
    origin = f"push of {arguments.file.name}"[:500]
    return _give(arguments, Order(kind="push", model=model, origin=origin, recipe=arguments.recipe))


def _promote(arguments: argparse.Namespace) -> int:
    return _give(arguments, Order(kind="promote", version=arguments.version, everyone=arguments.everyone))


def _rollback(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        with look_at_models(load_config(arguments.config)) as view:
            preview = view.rollback_preview(arguments.version)
        way = f"from model {preview['from']} to {preview['to'] or 'none'}"
        words = f"{len(preview['devices'])} devices would go {way}"
        return _say(arguments, preview, words)
    return _give(arguments, Order(kind="rollback", version=arguments.version))


def _pause(arguments: argparse.Namespace) -> int:
    return _give(arguments, Order(kind="pause"))


def _pin(arguments: argparse.Namespace) -> int:
    return _give(arguments, Order(kind="pin", device=arguments.device, version=arguments.version))


def _unpin(arguments: argparse.Namespace) -> int:
    return _give(arguments, Order(kind="unpin", device=arguments.device))


def _list(arguments: argparse.Namespace) -> int:
    with look_at_models(load_config(arguments.config)) as view:
        models = view.models()
    header = ("version", "parent", "made", "recipe", "size", "accuracy", "devices", "state")
    rows = [
        (
            str(model["version"]),
            str(model["parent"] or "-"),
            f"{datetime.fromtimestamp(model['created']):%Y-%m-%d %H:%M}",
            model["recipe"] or "-",
            bytes_text(model["size_bytes"]),
            _figure(model["accuracy"]),
            str(model["devices_having_it"]),
            model["phase"],
        )
        for model in models
    ]
    return _say(arguments, models, text_table(header, rows) if rows else "no models yet")


def _show(arguments: argparse.Namespace) -> int:
    with look_at_models(load_config(arguments.config)) as view:
        details = view.details(arguments.version)
    shown = ("origin", "recipe", "calibration", "parent", "size_bytes", "digest", "signature", "temperature")
    lines = [f"model {details['version']}: {details['phase']} {details['reason']}".rstrip()]
    lines += [f"{name:26} {details[name]}" for name in shown]
    lines += [f"{name:26} {value:.5g}" for name, value in details["metrics"].items()]
    lines += [f"warning: it does badly on {name}: {why}" for name, why in details["doing_badly"].items()]
    header = (
        "device",
        "has",
        "outcome",
        "accuracy",
        "by now",
        "ms",
        "answers",
        "errors",
        "reason".ljust(REASON),
    )
    rows = [
        (
            row["device"],
            f"{row['has']}{' (pinned)' if row['pinned'] else ''}",
            row["outcome"] or "-",
            _figure(row["accuracy"]),
            _figure(row["accuracy_by_now"]),
            _figure(row["latency_p50_ms"]),
            _figure(row["answers"]),
            _figure(row["errors"]),
            row["reason"][:REASON].ljust(REASON),
        )
        for row in details["devices"]
    ]
    return _say(arguments, details, "\n".join([*lines, "", text_table(header, rows)]))


def _figure(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _say(arguments: argparse.Namespace, plain: object, words: str) -> int:
    print(json.dumps(plain) if arguments.json else words)
    return 0


# ---- giving orders ----


def _give(arguments: argparse.Namespace, order: Order) -> int:
    """Leave an order with the server at work; without one, lead the fleet until it is carried out."""
    config = load_config(arguments.config)
    path = ledger_path(config)
    number = leave_order(path, order)
    if arguments.later:
        return _say(arguments, {"order": number}, f"order {number} waits for the next server")
    running = server_runs(path)
    answer = await_answer(path, number, ANSWER_S) if running else _lead(arguments, config, number)
    if answer is None:
        words = "the server is busy; the order waits in the ledger"
        return _say(arguments, {"order": number, "answer": None}, words)
    if answer.startswith(REFUSED):
        raise RolloutError(answer.removeprefix(REFUSED))
    return _say(arguments, {"order": number, "answer": answer}, answer)


def _lead(arguments: argparse.Namespace, config: ServerConfig, number: int) -> str | None:
    """Be the server, without rounds, until the rollout is over or waits for somebody."""
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.ERROR, stream=sys.stderr)
    from broker_server.report.console import open_console
    from broker_server.report.display import RoundDisplay
    from broker_server.server import Server

    folder, stop = arguments.config.resolve().parent, stop_on_signals()
    with RoundDisplay(open_console(stderr=True)) as display, fleet_broker(config, folder) as broker:
        server = Server(config, broker, display)
        server.roll_out(stop)
        answer = server.answer_to(number)
        server.stages.ledger.close()
    if stop.is_set():
        print("stopped; the rollout goes on with the next server", file=sys.stderr)
    return answer
