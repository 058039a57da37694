"""The mosquitto that is installed here, if any."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from broker_server.broker.base import BrokerError

SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # not on every user's PATH
OLDEST_VERSION = (2, 0)


@dataclass(frozen=True, slots=True)
class Mosquitto:
    """A binary that can be used."""

    path: str
    version: str


def find_mosquitto() -> str | None:
    """Path of the mosquitto binary, None where it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(SYSTEM_FOLDERS))


def require_mosquitto() -> Mosquitto:
    """The installed mosquitto; `BrokerError` where there is none or it is too old."""
    path = find_mosquitto()
    if path is None:
        raise BrokerError("mosquitto is not installed: apt install mosquitto, or use the embedded broker")
    return Mosquitto(path, _version(path))


def _version(path: str) -> str:
    result = subprocess.run([path, "-h"], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"mosquitto version ((\d+)\.(\d+)[\w.]*)", result.stdout + result.stderr)
    if found is None:
        raise BrokerError(f"{path} does not say its version; is it mosquitto?")
    if (int(found[2]), int(found[3])) < OLDEST_VERSION:
        raise BrokerError(f"mosquitto {found[1]} is too old: 2.0 is needed; or use the embedded broker")
    return found[1]
