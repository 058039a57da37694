"""What a card carries, as it may be shown: secrets are stars, whatever file they stand in."""

from __future__ import annotations

import re
from typing import Any

SECRET_KEYS = re.compile(r"(?i)(pass(wd|word|phrase)|psk|secret|token$|hash|private|^key$|key_data)")
PUBLIC_KEYS = frozenset({"lock_passwd", "password_encrypted", "password_authentication", "ssh_pwauth"})
STARS = "***"
CRYPT = re.compile(r"\$(y|5|6|7|gy)\$[A-Za-z0-9./$=,]+")
WPA_KEY = re.compile(r"\b[0-9a-fA-F]{64}\b")
TOKEN = re.compile(r"brt_[A-Za-z0-9_-]+")


def masked(plain: Any, key: str = "") -> Any:
    """The value with every secret in it replaced; by its key, and by what it looks like."""
    if key and SECRET_KEYS.search(key) and key not in PUBLIC_KEYS and plain not in (None, True, False):
        return STARS
    if isinstance(plain, dict):
        return {name: masked(value, str(name)) for name, value in plain.items()}
    if isinstance(plain, list):
        return [masked(value) for value in plain]
    return mask_text(plain) if isinstance(plain, str) and key != "server_key" else plain


def mask_text(text: str) -> str:
    """A text without what looks like a hash of a password, a key of a wireless network or a token."""
    for pattern in (CRYPT, WPA_KEY, TOKEN):
        text = pattern.sub(STARS, text)
    return text
