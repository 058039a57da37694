"""``bramble-edge``: the device's side of the fleet."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from compression.command_line import Commands, command, program, run_program
from compression.records import to_plain
from edge_client.config import EXAMPLE, ConfigError, EdgeConfig, load_config
from edge_client.data import DataSource, summarise
from edge_client.enrol_commands import add_enrol, add_report_step
from edge_client.inference.predict import Prediction, predict_files
from edge_client.inference.slots import ModelSlots
from edge_client.options import add_config, add_verbose


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status as `run_program` gives it."""
    parser, commands = program(
        "bramble-edge",
        "Take part in a Bramble fleet: train on this device's own data, run the fleet's model.",
        ["bramble-edge run --config /etc/bramble/edge.toml"],
    )
    _add_run(commands)
    _add_check(commands)
    _add_predict(commands)
    add_enrol(commands)
    add_report_step(commands)
    return run_program(parser, argv)


def _add_run(commands: Commands) -> None:
    parser = command(
        commands,
        "run",
        _run,
        "take part in the fleet until stopped (SIGTERM or Ctrl-C)",
        "bramble-edge run --config edge.toml",
        json=None,
    )
    parser.epilog = f"a settings file:\n\n{EXAMPLE}\n{parser.epilog}"
    add_config(parser)
    add_verbose(parser)


def _add_check(commands: Commands) -> None:
    parser = command(
        commands,
        "check",
        _check,
        "read the settings and the data, and say what the server would be told; connects to nothing",
        "bramble-edge check --config edge.toml --json",
    )
    add_config(parser)


def _add_predict(commands: Commands) -> None:
    parser = command(
        commands,
        "predict",
        _predict,
        "answer for pictures or table rows with the released model; not for clinical use",
        "bramble-edge predict --config edge.toml scan.png more-scans/",
        json="print one JSON object a line",
    )
    add_config(parser)
    parser.add_argument("paths", type=Path, nargs="+", metavar="FILE|DIR", help="pictures, tables or folders")


def _run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    config = load_config(arguments.config)
    from edge_client.agent import Agent  # loads the TFLite runtime: after the settings proved good
    from edge_client.enrolment.renewal import start_renewals

    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    if config.enrolment is not None:
        start_renewals(config, stop)
    Agent(config).run(stop)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    config: EdgeConfig = load_config(arguments.config)
    source = DataSource.parse(config.data.source, label_column=config.data.label_column)
    summary = summarise(source, validation_fraction=config.data.validation_fraction, seed=config.data.seed)
    if arguments.json:
        print(json.dumps(to_plain(summary), indent=2))
        return 0
    print(f"{config.name} of fleet {config.fleet}, broker {config.broker}")
    for field in dataclasses.fields(summary):
        print(f"{field.name:20} {getattr(summary, field.name)}")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    model = ModelSlots(Path(config.state) / "models").active()
    if model is None:
        raise ConfigError(f"{config.name} has no released model yet: it comes when a run of the fleet ends")
    failed = False
    if not arguments.json:
        print(
            f"{'label':20} {'probability':>11} {'ms':>9}  file   (model {model.version}, {model.spec.name})"
        )
    for answer in predict_files(model, arguments.paths, threads=config.threads):
        failed = failed or answer.error is not None
        print(json.dumps(dataclasses.asdict(answer)) if arguments.json else _line(answer), flush=True)
    return 1 if failed else 0


def _line(answer: Prediction) -> str:
    if answer.label is None or answer.probability is None or answer.latency_ms is None:
        return f"{'no answer':20} {'':11} {'':9}  {answer.file}: {answer.error}"
    return f"{answer.label:20.20} {answer.probability:11.3f} {answer.latency_ms:9.3f}  {answer.file}"


if __name__ == "__main__":
    sys.exit(main())
