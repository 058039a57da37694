"""``/opt/bramble/bramble-edge``: start the client that the pointer names, alone with what it brought.

The client sees the standard library and its own site tree: no user's packages, no distribution's, no current
directory. As a service (``BRAMBLE_SERVICE=1`` in the unit) a client on trial is given `slots.TRIAL_S` by an
alarm that survives the exec: one that is not online by then is ended by the kernel, a start that failed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_client.device import slots

MODULE = "edge_client.cli"
LIGHT_MODULE = "edge_client.first_boot"  # loads no numpy
LIGHT_COMMANDS = ("enrol", "report-step", "upgrade")
CACHE = Path("/var/cache/bramble")  # bytecode, where the client came without; the service's own


def command(prefix: Path, slot: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of the client in a slot.

    Raises:
        SlotError: the system's Python is not the one that the client was made for.
    """
    client, site = slots.client_of(prefix, slot), prefix / slot / slots.SITE
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if client.get("python") != here:
        wanted = client.get("python")
        raise slots.SlotError(f"this client is for Python {wanted}, the system has {here}: install another")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_"))}
    environment = kept | {"PYTHONPATH": str(site), "PYTHONNOUSERSITE": "1", "BRAMBLE_PREFIX": str(prefix)}
    if os.geteuid() == 0:  # and reads nothing from CACHE, where the service may write
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    elif not client.get("bytecode"):
        environment["PYTHONPYCACHEPREFIX"] = str(CACHE / slot)
    if (libraries := site / slots.LIBRARIES).is_dir():
        environment["LD_LIBRARY_PATH"] = str(libraries)
    light = bool(arguments) and arguments[0] in LIGHT_COMMANDS
    module = LIGHT_MODULE if light else MODULE
    return [sys.executable, "-P", "-s", "-S", "-m", module, *arguments], environment


def launch(arguments: Sequence[str], *, prefix: Path = slots.PREFIX, state: Path = slots.STATE) -> None:
    """Become the client; return only by an exception."""
    if os.environ.get("BRAMBLE_SERVICE") == "1":
        slot, on_trial = slots.begin_start(prefix, state)
        signal.alarm(slots.TRIAL_S if on_trial else 0)
    else:
        slot = slots.chosen(prefix, state)
    line, environment = command(prefix, slot, arguments)
    os.execve(line[0], line, environment)  # noqa: S606 - a list, no shell
