"""``firstrun.sh``: Raspberry Pi OS bookworm runs it once, from the kernel's command line, and reboots.

The script itself (`firstrun.sh` in this package) never changes. What differs from card to card are
assignments before it, every value quoted by `shlex`, and the commands after it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib import resources

from provisioning.card import Card
from provisioning.customise.payload import BootFile
from provisioning.customise.rendering import (
    Commands,
    Rendering,
    ssh_by_password,
    sudo_without_password,
    wants_ssh,
)
from provisioning.customise.wifi import connection_file

PATH = "/boot/firmware/firstrun.sh"
KERNEL = (
    f"systemd.run={PATH}",
    "systemd.run_success_action=reboot",
    "systemd.unit=kernel-command-line.target",
)


def render(card: Card, commands: Commands) -> Rendering:
    """The script for `card`, and the words that have it run."""
    body = resources.files("provisioning.customise").joinpath("firstrun.sh").read_text("utf-8")
    steps = "".join(f"step {shlex.join(command)}\n" for command in commands)
    script = f"#!/bin/sh\n{assignments(_values(card))}{body}{steps}finish\n"
    return Rendering(files=(BootFile("firstrun.sh", script.encode()),), kernel=KERNEL)


def assignments(values: Mapping[str, str]) -> str:
    """Shell that sets each name to exactly its value, whatever is in it."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _values(card: Card) -> dict[str, str]:
    """Shell variables; empty means no."""
    return {
        "name": card.name,
        "login": card.user,
        "password_hash": card.password_hash.value if card.password_hash else "",
        "ssh_keys": "\n".join(card.ssh_keys),
        "enable_ssh": "yes" if wants_ssh(card) else "",
        "password_ssh": "yes" if ssh_by_password(card) else "",
        "free_sudo": "yes" if sudo_without_password(card) else "",
        "country": card.wifi.country if card.wifi else "",
        "connection": connection_file(card.wifi) if card.wifi else "",
        "locale": card.locale or "",
        "keymap": card.keymap or "",
        "timezone": card.timezone,
    }
