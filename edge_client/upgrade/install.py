"""Root's half of an upgrade: check everything once more, unpack beside the running client, point at it.

The service that fetched the client is not trusted with more than its own user's files: signature, number and
the rule against older clients are checked here again, against settings and marks that only root can write.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_client.config import EdgeConfig
from edge_client.device import slots
from edge_client.device.unpack import install
from edge_client.upgrade.errors import UpgradeError
from edge_client.upgrade.package import open_package
from edge_client.wire.blobs import MAX_BLOB_BYTES
from edge_client.wire.frame import MAX_FRAME_BYTES
from edge_client.wire.signing import Verifier
from edge_client.wire.upgrade import Upgrade

MARK = "upgrades.json"  # the newest number that was carried out
PIECE = 1 << 20
MAX_PACKAGE_BYTES = MAX_BLOB_BYTES + MAX_FRAME_BYTES + 1024


def install_package(
    path: Path, config: EdgeConfig, *, prefix: Path = slots.PREFIX, state: Path = slots.STATE
) -> Upgrade:
    """Install a signed client; it runs, on trial, from the next start of the service on.

    Raises:
        UpgradeError: not signed, not for this device, replayed, older without being a rollback, or damaged.
    """
    running = slots.client_of(prefix, slots.chosen(prefix, state))
    copy = prefix / ".upgrade"  # where the service cannot change it between the check and the unpacking
    try:
        _copy(path, copy)
        verifier = Verifier(config.server_key)
        with open_package(copy, verifier, config.fleet, config.name) as (upgrade, archive):
            known = int(slots.read_json(prefix / MARK).get("number", 0))
            if reason := refusal(upgrade, running, known):
                raise UpgradeError(reason)
            install(prefix, state, archive)
            slots.write_json(prefix / MARK, {"number": upgrade.number})
    except (slots.SlotError, OSError) as exc:
        raise UpgradeError(f"{path}: {exc}") from exc
    finally:
        copy.unlink(missing_ok=True)
    return upgrade


def _copy(path: Path, copy: Path) -> None:
    """Copy what may be a package, for nobody else to read: the service may have put anything there."""
    copy.unlink(missing_ok=True)
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target, slots.open_plain(path) as source:
        left = MAX_PACKAGE_BYTES
        while piece := source.read(PIECE):
            if (left := left - len(piece)) < 0:
                raise UpgradeError(f"{path} has more than {MAX_PACKAGE_BYTES} bytes: that is no client")
            target.write(piece)


def refusal(upgrade: Upgrade, running: Mapping[str, Any], known: int) -> str:
    """Why an upgrade must not be installed; empty where it may."""
    build = int(running.get("build", 0))
    if upgrade.number <= known:
        return f"upgrade {upgrade.number} was carried out before, or is older than {known}: a replay"
    if upgrade.target != running.get("target"):
        return f"the client is for {upgrade.target}, this device is {running.get('target')}"
    if upgrade.build == build:
        return f"build {build} runs already"
    if upgrade.build < build and not upgrade.rollback:
        return f"build {upgrade.build} is older than {build}, which runs; a rollback must say that it is one"
    return ""
