"""``bramble-edge``: the device's side of the fleet."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence

from compression.command_line import Commands, command, program, run_program, stop_on_signals
from compression.records import to_plain
from edge_client.config import EXAMPLE, EdgeConfig, load_config
from edge_client.data import DataSource, summarise
from edge_client.enrol_commands import add_enrol, add_report_step
from edge_client.options import add_config, add_verbose
from edge_client.predict_commands import add_predict, add_serve, add_watch
from edge_client.train_commands import add_train
from edge_client.upgrade_commands import add_upgrade


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status as `run_program` gives it."""
    parser, commands = program(
        "bramble-edge",
        "Take part in a Bramble fleet: train on this device's own data, run the fleet's model.",
        ["bramble-edge run --config /etc/bramble/edge.toml"],
    )
    _add_run(commands)
    _add_check(commands)
    add_predict(commands)
    add_watch(commands)
    add_serve(commands)
    add_enrol(commands)
    add_report_step(commands)
    add_upgrade(commands)
    add_train(commands)
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


def _run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    config = load_config(arguments.config)
    from edge_client.agent import Agent  # loads the TFLite runtime: after the settings proved good
    from edge_client.enrolment.renewal import start_renewals

    stop = stop_on_signals()
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


if __name__ == "__main__":
    sys.exit(main())
