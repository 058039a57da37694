"""``custom.toml``: Raspberry Pi OS bookworm applies it before its first proper start.

It saves a reboot over `firstrun`, but cannot run commands or set a locale, and hands a network's name
to a file format where ``;`` and ``\\`` mean something. `can_say` tells when it is enough.
"""

from __future__ import annotations

import re
from typing import Any

import tomli_w

from provisioning.card import Card
from provisioning.customise.payload import BootFile
from provisioning.customise.rendering import Commands, Rendering, ssh_by_password, wants_ssh
from provisioning.customise.schema import check
from provisioning.customise.wifi import derived_key

PLAIN_SSID = re.compile(r"[A-Za-z0-9_.+-]([A-Za-z0-9_.+ -]*[A-Za-z0-9_.+-])?")


def can_say(card: Card, commands: Commands) -> bool:
    """Whether the format has words for everything on this card."""
    wifi_is_plain = card.wifi is None or (
        card.wifi.passphrase is not None
        and PLAIN_SSID.fullmatch(card.wifi.ssid) is not None
        and not card.wifi.ssid.startswith("-")  # its reader would take it for an option
    )
    return not commands and card.locale is None and wifi_is_plain


def render(card: Card) -> Rendering:
    """The file for `card`, checked."""
    plain: dict[str, Any] = {
        "config_version": 1,
        "system": {"hostname": card.name},
        "user": {
            "name": card.user,
            "password": card.password_hash.value if card.password_hash else "!",
            "password_encrypted": True,
        },
        "ssh": {"enabled": wants_ssh(card), "password_authentication": ssh_by_password(card)},
        "locale": {"timezone": card.timezone},
    }
    if card.ssh_keys:
        plain["ssh"]["authorized_keys"] = list(card.ssh_keys)
    if card.wifi is not None:
        plain["wlan"] = {
            "ssid": card.wifi.ssid,
            "password": derived_key(card.wifi),
            "password_encrypted": True,
            "hidden": card.wifi.hidden,
            "country": card.wifi.country,
        }
    if card.keymap is not None:
        plain["locale"]["keymap"] = card.keymap
    check("custom-toml", plain)
    return Rendering(files=(BootFile("custom.toml", tomli_w.dumps(plain).encode()),))
