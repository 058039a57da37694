"""Root's half of an upgrade: check everything once more, unpack beside the running client, point at it.

The service that fetched the client is not trusted with more than its own user's files: signature, number and
the rule against older clients are checked here again, against settings and marks that only root can write.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_client.config import EdgeConfig
from edge_client.device import slots
from edge_client.device.unpack import install
from edge_client.upgrade.errors import UpgradeError
from edge_client.upgrade.package import open_package
from edge_client.wire.messages import Upgrade
from edge_client.wire.signing import Verifier

MARK = "upgrades.json"  # the newest number that was carried out


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
        shutil.copyfile(path, copy)
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
