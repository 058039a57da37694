"""``bramble-provision token``, ``enrol-server`` and ``watch``: who may join, the service, and who has."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import socket
import sys
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from compression.command_line import Commands, Run, command, group, seconds
from provisioning.enrolment.desk import DEVICE_DAYS, EnrolmentDesk
from provisioning.enrolment.errors import EnrolmentServiceError
from provisioning.enrolment.progress import fleet_progress
from provisioning.enrolment.store import EnrolmentStore
from provisioning.enrolment.tokens import issue_tokens, parse_lifetime, save_tokens, withdraw_tokens
from provisioning.pki.authority import FleetCA
from provisioning.pki.ledger import format_time

DEFAULT_PORT = 8884
SILENT_S = 600.0


def add_token(commands: Commands) -> None:
    """Add ``token`` and its subcommands."""
    tokens = group(
        commands,
        "token",
        "one-time tokens, with which devices get their certificates",
        "bramble-provision token issue pi-1 pi-2 --out tokens --ca ward/pki",
    )
    issue = _command(
        tokens,
        "issue",
        run_issue,
        "make a token for each name, in a file of its own; it is shown nowhere else",
        "bramble-provision token issue pi-1 pi-2 --expires 7d --out tokens --ca ward/pki",
    )
    issue.add_argument("names", nargs="+", metavar="NAME")
    issue.add_argument(
        "--expires", type=_lifetime, default="7d", help="days or hours, as 7d or 12h (default: %(default)s)"
    )
    issue.add_argument("--out", type=Path, required=True, help="folder for the files NAME.token")
    _command(tokens, "list", run_list, "all tokens, and what became of them", "bramble-provision token list")
    revoke = _command(
        tokens,
        "revoke",
        run_revoke,
        "let a name's unused tokens work no more, as when a card is lost before it was used",
        "bramble-provision token revoke pi-1 --ca ward/pki",
    )
    revoke.add_argument("name")
    revoke.add_argument("--dry-run", action="store_true", help="say how many it would be")


def add_enrol_server(commands: Commands) -> None:
    """Add ``enrol-server``."""
    parser = _command(
        commands,
        "enrol-server",
        run_server,
        "the enrolment service alone, until stopped; `bramble-server run` has it built in",
        "bramble-provision enrol-server --host 0.0.0.0 --name workstation.local --ca ward/pki",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (0.0.0.0: the network)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="default: %(default)s")
    parser.add_argument(
        "--name", action="append", default=[], dest="names", help="under which devices know this machine"
    )
    parser.add_argument(
        "--days", type=int, default=DEVICE_DAYS, help="validity of certificates (%(default)s)"
    )


def add_watch(commands: Commands) -> None:
    """Add ``watch``."""
    parser = command(
        commands,
        "watch",
        run_watch,
        "the fleet joining, live: how far each device has come, and what to check where one is silent",
        "bramble-provision watch --ca ward/pki",
        json="print one JSON object a line, for each change",
    )
    _add_ca(parser)
    parser.add_argument("--once", action="store_true", help="show it once")
    parser.add_argument("--until-joined", action="store_true", help="end with 0 once every device has joined")
    parser.add_argument(
        "--silent",
        type=seconds,
        default=SILENT_S,
        metavar="SECONDS",
        help="without a word, after which it says what to check (default: %(default).0f)",
    )


def run_issue(arguments: argparse.Namespace) -> int:
    authority = FleetCA.open(arguments.ca)
    taken = [name for name in arguments.names if (arguments.out / f"{name}.token").exists()]
    if taken:
        raise EnrolmentServiceError(f"{arguments.out / taken[0]}.token exists; move it away, or use it")
    tokens = issue_tokens(authority, arguments.names, expires_in=arguments.expires)
    paths = save_tokens(tokens, arguments.out)
    facts = [
        {"name": token.name, "file": str(path), "expires": format_time(token.expires)}
        for token, path in zip(tokens, paths, strict=True)
    ]
    for fact in facts if not arguments.json else ():
        print(f"{fact['name']:<24} until {fact['expires']}  {fact['file']}")
    if arguments.json:
        print(json.dumps(facts, indent=1))
    for name in sorted({*arguments.names} & {*authority.ledger().revoked_names()}):
        print(f"note: {name} was revoked; with this token it is let in again", file=sys.stderr)
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    with EnrolmentStore(FleetCA.open(arguments.ca).directory).look() as look:
        rows = look.tokens()
    facts = [
        {
            "name": row.name,
            "state": row.state(now.timestamp()),
            "issued": _time(row.issued),
            "expires": _time(row.expires),
            "used": None if row.used is None else _time(row.used),
            "why": row.withdrawn,
        }
        for row in rows
    ]
    if arguments.json:
        print(json.dumps(facts, indent=1))
    for fact in facts if not arguments.json else ():
        end = f"used {fact['used']}" if fact["used"] else fact["why"] or f"until {fact['expires']}"
        print(f"{fact['name']:<24} {fact['state']:<9} {end}")
    return 0


def run_revoke(arguments: argparse.Namespace) -> int:
    authority = FleetCA.open(arguments.ca)
    if arguments.dry_run:
        with EnrolmentStore(authority.directory).look() as look:
            count = sum(
                row.state(datetime.now(UTC).timestamp()) == "open" for row in look.tokens(arguments.name)
            )
    else:
        count = withdraw_tokens(authority, arguments.name)
    if count == 0:
        raise EnrolmentServiceError(
            f"{arguments.name!r} has no open token; certificates are revoked by: bramble-provision ca revoke"
        )
    facts = {"name": arguments.name, "tokens": count, "dry_run": arguments.dry_run}
    verb = "would revoke" if arguments.dry_run else "revoked"
    print(json.dumps(facts) if arguments.json else f"{verb} {count} token of {arguments.name}")
    return 0


def run_server(arguments: argparse.Namespace) -> int:
    from provisioning.enrolment.service import EnrolmentService  # noqa: PLC0415 - aiohttp is the server's

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    authority, stop = FleetCA.open(arguments.ca), _stop_on_signals()
    desk = EnrolmentDesk(authority, days=arguments.days)
    own = socket.gethostname()
    names = [*arguments.names, own, *([] if "." in own else [f"{own}.local"])]
    with EnrolmentService(authority, desk, host=arguments.host, port=arguments.port, names=names) as service:
        facts = {"host": arguments.host, "port": service.port, "ca": authority.fingerprint}
        text = f"enrolment on {arguments.host}:{service.port}, authority {authority.fingerprint}"
        print(json.dumps(facts) if arguments.json else text, flush=True)
        stop.wait()
    return 0


def run_watch(arguments: argparse.Namespace) -> int:
    from provisioning.enrolment.watch import all_joined, open_view, watch  # noqa: PLC0415 - so is rich

    authority, stop = FleetCA.open(arguments.ca), _stop_on_signals()
    until = all_joined if arguments.until_joined else lambda _fleet: arguments.once
    with open_view(arguments.silent, as_json=arguments.json) as show:
        done = watch(partial(fleet_progress, authority), show, stop, until=until)
    return 0 if done else 130


def _command(commands: Commands, name: str, run: Run, summary: str, example: str) -> argparse.ArgumentParser:
    parser = command(commands, name, run, summary, example)
    _add_ca(parser)
    return parser


def _add_ca(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ca", type=Path, default=Path("ca"), help="the authority's folder (default: ca)")


def _lifetime(text: str) -> timedelta:
    try:
        return parse_lifetime(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _time(moment: float) -> str:
    return format_time(datetime.fromtimestamp(moment, UTC))


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop
