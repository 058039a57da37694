"""cloud-init's NoCloud seed: Raspberry Pi OS trixie since November 2025, and what imitates it.

Three files on the boot partition. The instance's identifier must be new for each card and stand on the
kernel's command line too, or the cached data source is searched for again at every boot.
"""

from __future__ import annotations

from typing import Any

import yaml

from provisioning.card import Card
from provisioning.customise.payload import BootFile
from provisioning.customise.rendering import (
    Commands,
    Rendering,
    ssh_by_password,
    sudo_without_password,
    wants_ssh,
)
from provisioning.customise.schema import check, check_network
from provisioning.customise.wifi import derived_key


def render(card: Card, commands: Commands, instance_id: str) -> Rendering:
    """The seed for `card`, checked; `instance_id` is one that no card had before."""
    user_data, network = _user_data(card, commands), _network(card)
    check("cloud-config", user_data)
    check_network(network)
    meta_data = {"dsmode": "local", "instance-id": instance_id, "local-hostname": card.name}
    return Rendering(
        files=(
            BootFile("user-data", b"#cloud-config\n" + _yaml(user_data)),
            BootFile("meta-data", _yaml(meta_data)),
            BootFile("network-config", _yaml(network)),
        ),
        kernel=(f"ds=nocloud;i={instance_id}",),
    )


def _user_data(card: Card, commands: Commands) -> dict[str, Any]:
    ssh: Commands = [("systemctl", "enable", "--now", "ssh")] if wants_ssh(card) else []
    data: dict[str, Any] = {
        "hostname": card.name,
        "manage_etc_hosts": True,
        "manage_resolv_conf": False,  # NetworkManager's
        "user": _user(card),
        "ssh_pwauth": ssh_by_password(card),
        "timezone": card.timezone,
        # cc_ssh writes keys but leaves the daemon off, as Raspberry Pi OS ships it.
        "runcmd": [list(command) for command in (*ssh, *commands)],
    }
    if card.locale is not None:
        data["locale"] = card.locale
    if card.keymap is not None:
        data["keyboard"] = {"model": "pc105", "layout": card.keymap}
    if not data["runcmd"]:
        del data["runcmd"]
    return data


def _user(card: Card) -> dict[str, Any]:
    """The image's own first user under a new name: ``users:`` would make one without its groups."""
    user: dict[str, Any] = {
        "name": card.user,
        "shell": "/bin/bash",
        "lock_passwd": card.password_hash is None,
        # Left out, the image's default holds, which is sudo without a password for everybody.
        "sudo": "ALL=(ALL) NOPASSWD:ALL" if sudo_without_password(card) else None,
    }
    if card.password_hash is not None:
        user["passwd"] = card.password_hash.value
    if card.ssh_keys:
        user["ssh_authorized_keys"] = list(card.ssh_keys)
    return user


def _network(card: Card) -> dict[str, Any]:
    """Cable always, since this file replaces the image's own; boot waits for Wi-Fi where there is one."""
    cable = {"dhcp4": True, "dhcp6": True, "optional": card.wifi is not None}
    network: dict[str, Any] = {"version": 2, "ethernets": {"eth0": cable}}
    if card.wifi is not None:
        key = derived_key(card.wifi)
        # The key at this level lets netplan choose between WPA2 and WPA3 as the network asks.
        point: dict[str, Any] = {"auth": {"key-management": "none"}} if key is None else {"password": key}
        if card.wifi.hidden:
            point["hidden"] = True
        network["wifis"] = {
            "wlan0": {
                "dhcp4": True,
                "dhcp6": True,
                "optional": False,
                "regulatory-domain": card.wifi.country,
                "access-points": {card.wifi.ssid: point},
            }
        }
    return {"network": network}


def _yaml(plain: dict[str, Any]) -> bytes:
    """ASCII, as every reader takes it; long lines unbroken, as people read them."""
    return yaml.safe_dump(plain, sort_keys=False, width=4096).encode("ascii")
