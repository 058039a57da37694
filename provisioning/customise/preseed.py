"""``rpi-preseed.toml``, for images with Raspberry Pi's rpi-preseed.

Its reader is a small one: an array ends at the first line with ``]``, so nothing in an array may hold
one (the schema sees to it), and of a key's comment only the plain part is worth the risk. Keys are also
installed by a command, because released versions lose them on their way to imager_custom.
"""

from __future__ import annotations

import shlex
from typing import Any

import tomli_w

from provisioning.card import Card, Wifi
from provisioning.customise.payload import BOOT_MOUNT, BootFile
from provisioning.customise.rendering import (
    Commands,
    Rendering,
    ssh_by_password,
    sudo_without_password,
    wants_ssh,
)
from provisioning.customise.schema import check
from provisioning.customise.wifi import derived_key

KEYS_FILE = "bramble/authorized_keys"


def render(card: Card, commands: Commands) -> Rendering:
    """The file for `card`, checked, and its SSH keys beside it."""
    plain: dict[str, Any] = {
        "config_version": "1.0",
        "system": {"hostname": card.name},
        "user": _user(card),
        "ssh": {"enabled": wants_ssh(card), "password_authentication": ssh_by_password(card)},
        "locale": _locale(card),
    }
    if card.wifi is not None:
        plain["wlan"] = _wlan(card.wifi)
    keys = tuple(" ".join(key.split()[:2]) for key in card.ssh_keys)
    all_commands = [*_key_commands(card), *commands]
    if all_commands:
        plain["runcmd"] = {
            "late": [shlex.join(command) for command in all_commands],
            "late_require_time_sync": False,  # a fleet without internet has no time server to wait for
            "late_wait_for_apt_lock": False,
        }
    check("rpi-preseed", plain)
    files = [BootFile("rpi-preseed.toml", tomli_w.dumps(plain).encode())]
    if keys:
        files.append(BootFile(KEYS_FILE, "".join(f"{key}\n" for key in keys).encode()))
    return Rendering(files=tuple(files))


def _user(card: Card) -> dict[str, Any]:
    user: dict[str, Any] = {
        "name": card.user,
        "groups": ["sudo"],
        "passwordless_sudo": sudo_without_password(card),
    }
    if card.password_hash is not None:
        user |= {"password": card.password_hash.value, "password_encrypted": True}
    return user


def _locale(card: Card) -> dict[str, Any]:
    locale: dict[str, Any] = {"timezone": card.timezone}
    if card.keymap is not None:
        locale["keymap"] = card.keymap
    if card.locale is not None:
        locale |= {"locales": [card.locale], "lang": card.locale}
    return locale


def _wlan(wifi: Wifi) -> dict[str, Any]:
    key = derived_key(wifi)
    wlan: dict[str, Any] = {
        "ssid_hex": wifi.ssid.encode().hex(),
        "hidden": wifi.hidden,
        "country": wifi.country,
        "key_mgmt": "none" if key is None else "wpa-psk",
    }
    return wlan if key is None else wlan | {"password": key, "password_encrypted": True}


def _key_commands(card: Card) -> Commands:
    if not card.ssh_keys:
        return []
    folder, source = f"/home/{card.user}/.ssh", str(BOOT_MOUNT / KEYS_FILE)
    owner = ("-o", card.user, "-g", card.user)
    return [
        ("install", "-d", "-m", "0700", *owner, folder),
        ("install", "-m", "0600", *owner, source, f"{folder}/authorized_keys"),
    ]
