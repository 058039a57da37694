"""Ports: find a free one, see whether one is taken, see whether something listens."""

from __future__ import annotations

import errno
import socket

from broker_server.broker.base import BrokerError
from provisioning.pki.identity import LOOPBACK


def check_port(host: str, port: int) -> int:
    """The port to listen on: `port` if it can be bound, a free one for 0.

    Raises:
        BrokerError: the port is taken, needs privileges, or the host is not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as the brokers do: TIME_WAIT is no reason
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as exc:
        raise BrokerError(_explain(exc, host, port)) from exc


def _explain(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use; stop what listens there, or choose another (0: any free one)"
        )
    if exc.errno == errno.EACCES:
        return f"port {port} on {host} needs more rights; choose a port above 1023"
    return f"cannot listen on {host} port {port}: {exc.strerror or exc}; choose an address of this machine"


def reached_from(host: str) -> str:
    """Where clients of a broker without certificates can be, for people."""
    return "this machine only" if host == LOOPBACK else "a closed network only"


def is_listening(host: str, port: int, *, timeout_s: float = 1.0) -> bool:
    """Whether a TCP connection is accepted."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False
