"""``bramble-provision ca``: make the authority, issue, sign, revoke, look. Each is a library call."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compression.command_line import Commands, Run, command, group
from compression.records import to_plain
from edge_client.enrolment.keys import new_key
from edge_client.wire.topics import AGGREGATOR
from provisioning.pki.authority import CERTIFICATE_DAYS, FleetCA
from provisioning.pki.errors import PkiError
from provisioning.pki.files import write_file, write_new_file
from provisioning.pki.keys import (
    CA_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    check_name,
    make_request,
    read_pem,
    save_new_key,
)
from provisioning.pki.ledger import Issued, Role, format_time

SERVER_CERTIFICATE_FILE, SERVER_KEY_FILE = "server.crt", "server.key"


def add_ca_commands(commands: Commands) -> None:
    """Add ``ca`` and its subcommands to a parser's subparsers."""
    subcommands = group(
        commands, "ca", "the fleet's certificate authority", "bramble-provision ca list --ca ward/pki"
    )
    init = _command(subcommands, "init", run_init, "make a new authority", "ca init --fleet ward-3")
    init.add_argument("--fleet", required=True, help="the fleet's name, part of every topic")

    issue = _command(
        subcommands,
        "issue",
        run_issue,
        "make a key and a certificate here, for a broker or for a device that cannot make its own key",
        "ca issue pi-1 --out cards/pi-1",
        "ca issue --server broker.ward.lan 10.0.0.5 --out broker",
    )
    issue.add_argument("name", nargs="?", help=f"the device's name, or {AGGREGATOR}")
    issue.add_argument(
        "--server", nargs="+", metavar="HOST", help="a broker's host names and addresses instead"
    )
    issue.add_argument("--out", type=Path, required=True, help="new folder for the files")
    _add_days(issue)

    sign = _command(
        subcommands,
        "sign",
        run_sign,
        "sign a device's request",
        "ca sign pi-1.csr --name pi-1 --out pi-1.crt",
    )
    sign.add_argument("request", type=Path, help="the request (PEM) that the device made")
    sign.add_argument("--name", required=True, help="the device that you expect it from")
    sign.add_argument("--out", type=Path, help="file for the certificate (default: NAME.crt)")
    _add_days(sign)

    revoke = _command(
        subcommands, "revoke", run_revoke, "shut a device out, for good", "ca revoke pi-1 --dry-run"
    )
    revoke.add_argument("name")
    revoke.add_argument("--dry-run", action="store_true", help="say what would be revoked")
    revoke.add_argument("--yes", action="store_true", help="do not ask")

    _command(subcommands, "list", run_list, "all certificates", "ca list --json")
    show = _command(subcommands, "show", run_show, "the authority, or one member", "ca show pi-1")
    show.add_argument("name", nargs="?")


def run_init(args: argparse.Namespace) -> int:
    authority = FleetCA.create(args.ca, args.fleet)
    facts = _authority_facts(authority)
    text = f"authority of fleet {args.fleet} in {args.ca}\nfingerprint {facts['fingerprint']}\n"
    return _tell(
        args, facts, text + f"keep {authority.key_file} secret, and a copy of the folder in a safe place"
    )


def run_issue(args: argparse.Namespace) -> int:
    if (args.name is None) == (args.server is None):
        raise PkiError("name a device, or give --server with host names: one of the two")
    authority = FleetCA.open(args.ca)
    key_name = SERVER_KEY_FILE if args.server else KEY_FILE
    if (args.out / key_name).exists():
        raise PkiError(f"{args.out / key_name} exists; choose another folder, nothing is overwritten")
    if args.server:
        args.out.mkdir(parents=True, exist_ok=True)
        certificate = authority.issue_server(args.out / key_name, args.server, days=args.days)
        certificate_file = args.out / SERVER_CERTIFICATE_FILE
    else:
        certificate = _issue_client(authority, args.name, args.out, args.days)
        certificate_file = args.out / CERTIFICATE_FILE
    write_file(certificate_file, certificate)
    write_file(args.out / CA_FILE, read_pem(authority.certificate_file))
    files = {"key": args.out / key_name, "certificate": certificate_file, "ca": args.out / CA_FILE}
    facts = {name: str(path) for name, path in files.items()}
    return _tell(args, facts, "\n".join(f"{name:<12}{path}" for name, path in facts.items()))


def _issue_client(authority: FleetCA, name: str, directory: Path, days: int) -> bytes:
    role: Role = "aggregator" if name == AGGREGATOR else "device"
    key = new_key()
    certificate = authority.sign_csr(make_request(key, name), name, role=role, days=days)
    directory.mkdir(parents=True, exist_ok=True)  # only now: a refusal leaves nothing behind
    save_new_key(directory / KEY_FILE, key)
    return certificate


def run_sign(args: argparse.Namespace) -> int:
    authority = FleetCA.open(args.ca)
    path: Path = args.out or Path(f"{check_name(args.name)}.crt")
    if path.exists():
        raise PkiError(f"{path} exists; nothing is overwritten, name another file with --out")
    certificate = authority.sign_csr(read_pem(args.request), args.name, days=args.days)
    write_new_file(path, certificate)
    entry = authority.ledger().of(args.name)[-1]
    return _tell(args, _entry_facts(entry) | {"certificate": str(path)}, f"{path}: {_line(entry)}")


def run_revoke(args: argparse.Namespace) -> int:
    authority = FleetCA.open(args.ca)
    good = [entry for entry in authority.ledger().of(check_name(args.name)) if entry.revoked_at is None]
    if args.dry_run:
        if not good:
            raise PkiError(f"{args.name!r} has nothing to revoke; see: bramble-provision ca list")
        facts = {"revoked": [], "would_revoke": [_entry_facts(entry) for entry in good]}
        return _tell(args, facts, "\n".join(f"would revoke  {_line(entry)}" for entry in good))
    if (
        good
        and not args.yes
        and not _confirmed(f"Shut {args.name} out of the fleet? It needs a new certificate")
    ):
        raise PkiError("not revoked; say yes, or give --yes")
    revoked = authority.revoke(args.name)
    facts = {"revoked": [_entry_facts(entry) for entry in revoked], "would_revoke": []}
    return _tell(args, facts, "\n".join(f"revoked  {_line(entry)}" for entry in revoked))


def run_list(args: argparse.Namespace) -> int:
    ledger = FleetCA.open(args.ca).ledger()
    facts = {"fleet": ledger.fleet, "certificates": [_entry_facts(entry) for entry in ledger.issued]}
    return _tell(args, facts, "\n".join(map(_line, ledger.issued)) or "no certificates yet")


def run_show(args: argparse.Namespace) -> int:
    authority = FleetCA.open(args.ca)
    facts = _authority_facts(authority)
    if args.name is not None:
        entries = authority.ledger().of(check_name(args.name))
        if not entries:
            raise PkiError(f"{args.name!r} was never issued a certificate; see: bramble-provision ca list")
        facts = {"name": args.name, "certificates": [_entry_facts(entry) for entry in entries]}
        return _tell(args, facts, "\n".join(map(_line, entries)))
    return _tell(args, facts, "\n".join(f"{name:<14}{value}" for name, value in facts.items()))


def _command(
    commands: Commands, name: str, run: Run, summary: str, *examples: str
) -> argparse.ArgumentParser:
    parser = command(commands, name, run, summary, *[f"bramble-provision {example}" for example in examples])
    parser.add_argument("--ca", type=Path, default=Path("ca"), help="the authority's folder (default: ca)")
    return parser


def _add_days(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--days", type=int, default=CERTIFICATE_DAYS, help=f"validity (default: {CERTIFICATE_DAYS})"
    )


def _authority_facts(authority: FleetCA) -> dict[str, Any]:
    ledger, now = authority.ledger(), datetime.now(UTC)
    states = [entry.state(now) for entry in ledger.issued]
    counts = {state: states.count(state) for state in ("valid", "expired", "revoked")}
    return {
        "fleet": ledger.fleet,
        "directory": str(authority.directory),
        "fingerprint": authority.fingerprint,
        "not_after": format_time(authority.not_after),
    } | counts


def _entry_facts(entry: Issued) -> dict[str, Any]:
    facts: dict[str, Any] = to_plain(entry)
    return facts | {"state": entry.state(datetime.now(UTC))}


def _line(entry: Issued) -> str:
    state = entry.state(datetime.now(UTC))
    when = f"since {entry.revoked_at}" if state == "revoked" else f"until {entry.not_after}"
    return f"{entry.name:<24} {entry.role:<10} {state:<8} {when}  {entry.serial}"


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False


def _tell(args: argparse.Namespace, facts: Mapping[str, Any], text: str) -> int:
    print(json.dumps(facts, indent=1) if args.json else text)
    return 0
