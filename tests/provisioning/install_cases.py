"""A card, a wheelhouse whose client is a few lines long, and the bundle of both."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from edge_client.config import DataConfig
from provisioning.bundle.payload import bundle_files, write_bundle
from provisioning.card import Card, Endpoint, EnrolmentToken, FleetAccess, IssuedCertificate, Secret
from provisioning.pki.authority import FleetCA
from provisioning.wheelhouse.lock import LOCK_FILE
from provisioning.wheelhouse.make import Wheelhouse, make_wheelhouse, open_wheelhouse
from provisioning.wheelhouse.targets import System
from tests.provisioning.wheels import bramble_wheel, index

TOKEN = "brt_" + "T" * 43
HERE = System("trixie-arm64", "trixie", (sys.version_info[0], sys.version_info[1]), "aarch64", 41)
# What the stand-in client prints shows where it was started from, and with what.
CLIENT = """\
import json, os, sys
print(json.dumps({"version": VERSION, "arguments": sys.argv[1:], "path": sys.path, "env": dict(os.environ)}))
"""


def authority(tmp_path: Path) -> str:
    """The certificate of a fleet's authority, PEM."""
    folder = tmp_path / "ca"
    ca = FleetCA.open(folder) if folder.exists() else FleetCA.create(folder, "ward")
    return ca.certificate_file.read_text("ascii")


def card(tmp_path: Path, **changes: object) -> Card:
    """A card with a token, as a bundle."""
    pem = authority(tmp_path)
    values: dict[str, object] = {
        "name": "pi-1",
        "target": "trixie-arm64",
        "access": FleetAccess("ward", "ab" * 32, Endpoint("broker.lan", 8883), pem, Endpoint("ca.lan", 8884)),
        "identity": EnrolmentToken(Secret(TOKEN)),
        "data": DataConfig(source="folder:/srv/images"),
        "mode": "bundle",
    }
    return Card(**(values | changes))  # type: ignore[arg-type]


def issued(tmp_path: Path) -> IssuedCertificate:
    """An identity made beforehand; the key is one in form only."""
    key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"
    return IssuedCertificate(authority(tmp_path), Secret(key))


def wheelhouse(tmp_path: Path, version: str = "1.0", build: int = 1000, code: str = CLIENT) -> Wheelhouse:
    """A wheelhouse for this machine's Python, under a target's name; equal ones are made once."""
    code = code.replace("VERSION", repr(version))
    name = hashlib.sha256(f"{version} {build} {code}".encode()).hexdigest()[:16]
    folder = tmp_path.parent / f"wheelhouse-{name}"
    if (folder / LOCK_FILE).exists():
        return open_wheelhouse(folder)
    wheel = bramble_wheel(folder / "own", version=version, code=code)
    return make_wheelhouse(HERE, folder, bramble_wheel=wheel, fetch=index(tmp_path), now=build)


def bundle(tmp_path: Path, **changes: object) -> Path:
    """A bundle's folder."""
    folder = tmp_path / "boot" / "bramble"
    write_bundle(bundle_files(card(tmp_path, **changes), wheelhouse(tmp_path)), folder)
    return folder
