"""``bramble-edge enrol`` and ``report-step``, for the first boot; exit statuses in docs/enrolment.md."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import sys
from typing import get_args

from compression.command_line import Commands, command, seconds
from edge_client.config import load_config
from edge_client.options import add_config, add_verbose
from edge_client.wire.enrolment import State, Step

TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h; systemd and people know it
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of the disk: room may be made, a card may be put in anew


def add_enrol(commands: Commands) -> None:
    """Add ``enrol``."""
    parser = command(
        commands,
        "enrol",
        run_enrol,
        "get this device's certificate, or renew it; does nothing where it is good. "
        "0: enrolled, 75: try again later, 1: refused",
        "bramble-edge enrol --config /etc/bramble/edge.toml --wait 300",
    )
    add_config(parser)
    add_verbose(parser)
    parser.add_argument(
        "--wait", type=seconds, default=0.0, metavar="SECONDS", help="keep trying for so long (default: once)"
    )
    parser.add_argument(
        "--again", action="store_true", help="use the token although there is a good certificate"
    )


def add_report_step(commands: Commands) -> None:
    """Add ``report-step``."""
    parser = command(
        commands,
        "report-step",
        run_report_step,
        "say how far the first boot has come: to the server, and in the status file",
        "bramble-edge report-step install ok --config /etc/bramble/edge.toml",
    )
    parser.add_argument("step", choices=[step for step in get_args(Step) if step != "flash"])
    parser.add_argument("state", choices=get_args(State))
    parser.add_argument("--detail", default="", help="what a person should know, one line")
    add_config(parser)
    add_verbose(parser)


def run_enrol(arguments: argparse.Namespace) -> int:
    from edge_client.enrolment.enrol import enrol_within  # noqa: PLC0415 - `run` needs none of it
    from edge_client.enrolment.errors import TryLaterError  # noqa: PLC0415

    _log(arguments)
    try:
        outcome = enrol_within(load_config(arguments.config), arguments.wait, again=arguments.again)
    except TryLaterError as exc:
        print(f"not yet: {exc}", file=sys.stderr)
        return TRY_LATER
    except OSError as exc:
        if exc.errno not in PASSING:
            raise
        print(f"not yet: {exc.strerror}: {exc.filename or 'a file of the identity'}", file=sys.stderr)
        return TRY_LATER
    facts = {"name": outcome.name, "outcome": outcome.what, "not_after": outcome.not_after.isoformat()}
    if arguments.json:
        print(json.dumps(facts))
    else:
        print(f"{outcome.name}: {outcome.what}, certificate until {outcome.not_after:%Y-%m-%d}")
    return 0


def run_report_step(arguments: argparse.Namespace) -> int:
    from edge_client.enrolment.enrol import report_step  # noqa: PLC0415

    _log(arguments)
    config = load_config(arguments.config)
    told = report_step(config, arguments.step, arguments.state, arguments.detail)
    if arguments.json:
        facts = {"name": config.name, "step": arguments.step, "state": arguments.state}
        print(json.dumps(facts | {"detail": arguments.detail, "server_told": told}))
    return 0


def _log(arguments: argparse.Namespace) -> None:
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )
