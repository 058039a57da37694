"""``bramble-provision upgrade``: another client for a device of the fleet."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from compression.command_line import Commands, command, seconds
from compression.progress import progress_bar
from edge_client.session.address import BrokerAddress
from edge_client.upgrade.package import write_package
from edge_client.wire.topics import AGGREGATOR
from provisioning.pki.authority import FleetCA
from provisioning.pki.identity import ensure_identity
from provisioning.pki.keys import check_name
from provisioning.pki.signing import load_signing_key
from provisioning.upgrade import Delivery, SignedUpgrade, UpgradeFailedError, sign_upgrade
from provisioning.wheelhouse.make import open_wheelhouse

WAIT_S = 1800.0  # 45 MB over a weak Wi-Fi, the trial, and some patience


def add_upgrade(commands: Commands) -> None:
    """Add ``upgrade``."""
    parser = command(
        commands,
        "upgrade",
        run_upgrade,
        "give a device another client, over the broker or as a file; it goes back by itself if it fails. "
        "No server may run meanwhile",
        "bramble-provision upgrade pi-ward-3 --wheelhouse wheelhouse/trixie-arm64 --broker ward.lan:8883 "
        "--ca ward/pki --keys ward/keys",
        "bramble-provision upgrade pi-ward-3 --wheelhouse wheelhouse/trixie-arm64 --out pi-ward-3.upgrade",
    )
    parser.add_argument("name", help="the device")
    parser.add_argument("--wheelhouse", type=Path, required=True, help="as `wheelhouse --out` made it")
    parser.add_argument("--ca", type=Path, default=Path("ca"), help="the authority's folder (default: ca)")
    parser.add_argument(
        "--keys", type=Path, default=Path("keys"), help="folder of the signing key (default: keys)"
    )
    parser.add_argument("--broker", metavar="HOST:PORT", help="the fleet's broker")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a file for `bramble-edge upgrade`")
    parser.add_argument("--rollback", action="store_true", help="an older client than the running is meant")
    parser.add_argument(
        "--wait",
        type=seconds,
        default=WAIT_S,
        metavar="SECONDS",
        help="for its answer (default: %(default)g)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent")


def run_upgrade(arguments: argparse.Namespace) -> int:
    if (arguments.broker is None) == (arguments.out is None):
        raise UpgradeFailedError("give --broker HOST:PORT or --out FILE: one of the two")
    authority = FleetCA.open(arguments.ca)
    signed = sign_upgrade(
        open_wheelhouse(arguments.wheelhouse),
        authority.ledger().fleet,
        check_name(arguments.name),
        load_signing_key(arguments.keys),
        rollback=arguments.rollback,
    )
    facts = {
        "name": signed.device,
        "client": signed.upgrade.version,
        "build": signed.upgrade.build,
        "number": signed.upgrade.number,
        "bytes": signed.upgrade.archive.size,
        "rollback": signed.upgrade.rollback,
    }
    if arguments.dry_run:
        outcome, reason = "not sent", "a dry run"
    elif arguments.out is not None:
        write_package(arguments.out, signed.frame, signed.archive)
        outcome, reason = "written", str(arguments.out)
    else:
        outcome, reason = _deliver(arguments, authority, signed)
    text = f"{signed.device}: client {signed.upgrade.version}, build {signed.upgrade.build}: {outcome}"
    print(
        json.dumps(facts | {"outcome": outcome, "reason": reason})
        if arguments.json
        else f"{text} {reason}".rstrip()
    )
    return 0 if outcome in ("running", "written", "not sent") else 1


def _deliver(arguments: argparse.Namespace, authority: FleetCA, signed: SignedUpgrade) -> tuple[str, str]:
    host, _, port = arguments.broker.rpartition(":")
    if not host or not port.isdecimal():
        raise UpgradeFailedError(f"--broker {arguments.broker!r} is not HOST:PORT")
    folder = arguments.ca / AGGREGATOR
    folder.mkdir(mode=0o700, exist_ok=True)
    identity = ensure_identity(authority, folder, AGGREGATOR)
    address = BrokerAddress(
        host=host.strip("[]"),
        port=int(port),
        ca_file=str(identity.ca_file),
        certificate_file=str(identity.certificate_file),
        key_file=str(identity.key_file),
    )
    with progress_bar() as report:
        word = Delivery(address, signed, report).run(arguments.wait)
    return word.outcome, word.reason
