"""What a service tells systemd: it is ready, alive, stopping (sd_notify(3), sd_watchdog_enabled(3)).

Without ``NOTIFY_SOCKET`` in the environment, that is not under systemd, nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

BEATS_A_TIME_OUT = 3  # one may come late without harm
STARTING_S = 300  # more for a start that goes on: one picture on the slowest card, many times over


class ServiceManager:
    """The manager of this process, if it has one. Sending never fails: a lost word is not worth an agent."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._every_s = _watchdog_s(environment) / BEATS_A_TIME_OUT
        self._beat_at = self._asked_at = float("-inf")

    def starting(self, now: float | None = None) -> None:
        """The start takes longer, and goes on; to be called often, before `ready`."""
        moment = time.monotonic() if now is None else now
        if moment - self._asked_at >= STARTING_S / BEATS_A_TIME_OUT:
            self._asked_at = moment
            self._send(f"EXTEND_TIMEOUT_USEC={STARTING_S * 1_000_000}")

    def ready(self) -> None:
        """The start is over."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self, now: float | None = None) -> None:
        """Work goes on; to be called often, and sent as rarely as the watchdog allows."""
        moment = time.monotonic() if now is None else now
        if self._every_s and moment - self._beat_at >= self._every_s:
            self._beat_at = moment
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.sendto(message.encode(), socket.MSG_DONTWAIT, address)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Time-out of this process's watchdog; 0 without one, as where it is meant for another process."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(usec) / 1e6
