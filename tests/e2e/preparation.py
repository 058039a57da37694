"""From nothing to a card: fleet, token, wheelhouse, flash. All by the product's own commands."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cache import Cache
from tests.e2e.card import debugfs
from tests.e2e.fleet import NAME, Fleet, product
from tests.e2e.machine import WORKSTATION
from tests.e2e.os_image import get_os_image
from tests.e2e.shares import Shares
from tests.e2e.shell import run

PI = "pi-e2e"
USER = "ward"
TARGET = "trixie-arm64"
BROKER_PORT, ENROLMENT_PORT = 8883, 8884  # as the guest sees them
EXAMPLES = "/srv/examples"
CARD_BYTES = 4 << 30  # a card is larger than its image: the root file system grows at first boot


@dataclass(frozen=True)
class Prepared:
    """What the emulated Pi is started with."""

    fleet: Fleet
    card: Path
    ssh_key: Path
    wheelhouse: Path

    @property
    def ports(self) -> dict[int, int]:
        return {BROKER_PORT: self.fleet.port, ENROLMENT_PORT: self.fleet.port + 1}


def make_wheelhouse(cache: Cache) -> Path:
    """Kept and brought up to date."""
    folder = cache.folder / f"wheelhouse-{TARGET}"
    product("bramble-provision", "wheelhouse", "--target", TARGET, "--out", folder)
    return folder


def issue_token(fleet: Fleet, name: str = PI) -> Path:
    """A one-time token; the file that holds it."""
    folder = fleet.folder / "tokens"
    product("bramble-provision", "token", "issue", name, "--out", folder, "--ca", fleet.pki)
    return folder / f"{name}.token"


def make_ssh_key(folder: Path) -> Path:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "e2e", "-f", folder / "ssh_key")
    return folder / "ssh_key"


def flash(
    cache: Cache, fleet: Fleet, shares: Shares, folder: Path, wheelhouse: Path, token: Path, mode: str
) -> Prepared:
    """``bramble-provision flash`` onto a file, then the Pi's share of the examples."""
    card, key, image = folder / f"{PI}.img", make_ssh_key(folder), get_os_image(cache)
    product(
        *("bramble-provision", "flash", image, "--device", card, "--yes", "--sha256", _sha256(image)),
        *("--name", PI, "--target", TARGET, "--mode", mode, "--wheelhouse", wheelhouse),
        *("--user", USER, "--ssh-key", key.with_suffix(".pub"), "--locale", "en_GB.UTF-8"),
        *("--timezone", "Europe/Berlin", "--fleet", NAME, "--server-key", fleet.server_key()),
        *("--fleet-ca", fleet.pki / "ca.crt", "--broker", f"{WORKSTATION}:{BROKER_PORT}"),
        *("--enrolment", f"{WORKSTATION}:{ENROLMENT_PORT}", "--token-file", token),
        *("--data", f"{shares.pi_kind}:{EXAMPLES}/{shares.pi.name}"),
    )
    os.truncate(card, CARD_BYTES)
    _copy_examples(card, shares.pi)
    return Prepared(fleet, card, key, wheelhouse)


def _copy_examples(card: Path, share: Path) -> None:
    """A hospital copies its pictures onto its Pi; here the rig writes them into the root file system."""
    place = f"{EXAMPLES}/{share.name}"
    debugfs(card, f"mkdir {EXAMPLES}", f"write {share} {place}", f"sif {place} mode 0100644", write=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
