"""The key of a WPA network, derived here so that no passphrase is written to a card."""

from __future__ import annotations

import hashlib
import re

from provisioning.card import Wifi

WPA_ROUNDS, WPA_KEY_BYTES = 4096, 32  # IEEE 802.11i, PBKDF2 with HMAC-SHA1


def derived_key(wifi: Wifi) -> str | None:
    """64 hexadecimal digits; None for an open network. What is a key already stays as it is."""
    if wifi.passphrase is None:
        return None
    given = wifi.passphrase.value
    if re.fullmatch(r"[0-9a-fA-F]{64}", given):
        return given.lower()
    return hashlib.pbkdf2_hmac("sha1", given.encode(), wifi.ssid.encode(), WPA_ROUNDS, WPA_KEY_BYTES).hex()


def connection_file(wifi: Wifi) -> str:
    """The network as a NetworkManager keyfile; the name as bytes, so that no character means anything."""
    key = derived_key(wifi)
    ssid = "".join(f"{byte};" for byte in wifi.ssid.encode())
    lines = ["[connection]", "id=preconfigured", "type=wifi", "", "[wifi]", "mode=infrastructure"]
    lines += [f"ssid={ssid}", f"hidden={'true' if wifi.hidden else 'false'}", ""]
    if key is not None:
        lines += ["[wifi-security]", "key-mgmt=wpa-psk", f"psk={key}", ""]
    lines += ["[ipv4]", "method=auto", "", "[ipv6]", "addr-gen-mode=default", "method=auto", ""]
    return "\n".join(lines)
