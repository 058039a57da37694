"""``bramble-provision ssh``: the same device as from a card, on a Pi that runs already."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from compression.command_line import Commands, command, count
from provisioning.card_jobs import add_authority_option, described_cards, with_tokens
from provisioning.card_options import add_card_options
from provisioning.ssh.errors import RemoteError
from provisioning.ssh.host_keys import Host, pinned
from provisioning.ssh.install import Outcome, install
from provisioning.ssh.remote import Remote
from provisioning.wheelhouse.make import open_wheelhouse

KNOWN_HOSTS = Path("~/.ssh/known_hosts")


def add_ssh(commands: Commands) -> None:
    """Add ``ssh``."""
    parser = command(
        commands,
        "ssh",
        run_ssh,
        "make a device of a Pi that runs already; again, it changes nothing",
        "bramble-provision ssh pi@pi-ward-3.local --card cards.toml --name pi-ward-3 "
        "--wheelhouse wheelhouse/trixie-arm64 --dry-run",
    )
    parser.add_argument("host", metavar="USER@HOST", help="who to log in as, and where; by key, not password")
    add_card_options(parser)
    add_authority_option(parser)
    parser.add_argument("--wheelhouse", type=Path, required=True, help="as `wheelhouse --out` made it")
    parser.add_argument("--port", type=count, default=22, help="of the SSH service (default: %(default)s)")
    parser.add_argument(
        "--login-key", type=Path, metavar="FILE", help="SSH key to log in with (default: ssh's)"
    )
    parser.add_argument(
        "--known-hosts", type=Path, default=KNOWN_HOSTS, metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument(
        "--accept-host-key", metavar="SHA256:...", help="pin the host key with this fingerprint"
    )
    parser.add_argument(
        "--root", default="/", help="install below this folder of the device, without systemd"
    )
    parser.add_argument("--dry-run", action="store_true", help="say each step, change nothing")


def run_ssh(arguments: argparse.Namespace) -> int:
    cards = described_cards(arguments)
    if len(cards) != 1:
        raise RemoteError(f"{len(cards)} cards are named; give one with --name")
    wheelhouse = open_wheelhouse(arguments.wheelhouse)
    host, known = Host.parse(arguments.host, arguments.port), arguments.known_hosts.expanduser()
    say = (lambda _line: None) if arguments.json else print
    with pinned(host, known, arguments.accept_host_key, dry=arguments.dry_run, say=say) as trusted:
        outcome = install(
            Remote(host, trusted, arguments.login_key),
            cards[0],
            wheelhouse,
            root=arguments.root,
            dry=arguments.dry_run,
            say=say,
            complete=lambda card: with_tokens([card], arguments.ca)[0],
        )
    print(json.dumps(_facts(host, outcome)) if arguments.json else "\n".join(_lines(outcome)))
    return 0


def _facts(host: Host, outcome: Outcome) -> dict[str, object]:
    changes = None if outcome.changes is None else list(outcome.changes)
    return {
        "host": str(host),
        "sent": list(outcome.sent),
        "sent_bytes": outcome.sent_bytes,
        "changes": changes,
    }


def _lines(outcome: Outcome) -> list[str]:
    if outcome.changes is None:
        return [f"{len(outcome.sent)} files, {outcome.sent_bytes / 1e6:.1f} MB, would be sent and installed"]
    return list(outcome.changes) or ["nothing to do: the device is as it should be"]
