"""A network of a benchmark's own on one machine: a namespace a node, veth pairs, one bridge. Linux, root.

The bridge lies in a namespace too (the hub), so nothing of the machine's own network is touched and nothing
leaves it. Frames are what a cable carries: an MTU of 1500, no segmentation offload, no IPv6. Names begin with
``bramble-bench-PID-``; what a killed run has left is found by them and removed at the next start.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from benchmarks.errors import BenchmarkError

PREFIX = "bramble-bench-"
OURS = re.compile(re.escape(PREFIX) + r"(\d+)-")
MTU = 1500
FRAME_BYTES = MTU + 14  # with the Ethernet header
HUB, SERVER, BRIDGE = "hub", "server", "bridge"
SERVER_HOST = "10.0.0.1"  # any would do: nobody else is there
MAX_CLIENTS = 500  # a bridge has 1023 ports, the server's table of neighbours 512 comfortable places
QUEUE = "400ms"  # of a slow link: what would wait longer is dropped and sent again
BURST_S, MIN_BURST_BYTES = 0.01, 4 * FRAME_BYTES
RATE = re.compile(r"([1-9]\d{0,4})([kmg])bit")
UNITS = {"k": 1e3, "m": 1e6, "g": 1e9}
NO_IPV6 = "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do if [ -e $f ]; then echo 1 >$f; fi; done"
HOW = "in a container it takes --privileged; --network loopback needs neither"


def client(number: int) -> str:
    """The node of a client."""
    return f"client-{number}"


def bits_per_second(link: str) -> float:
    """Of a rate as tc writes it, ``10mbit``.

    Raises:
        BenchmarkError: it is none.
    """
    if (found := RATE.fullmatch(link)) is None:
        raise BenchmarkError(f"{link!r} is not a link's rate, such as 10mbit, 500kbit or 1gbit")
    return int(found[1]) * UNITS[found[2]]


class Namespaces:
    """The nodes `SERVER` and `client(n)`, connected while this is entered; `offloads` leaves them on."""

    def __init__(self, clients: int, *, offloads: bool = False) -> None:
        if clients > MAX_CLIENTS:
            raise BenchmarkError(f"at most {MAX_CLIENTS} clients fit on the bridge, not {clients}")
        self._prefix = f"{PREFIX}{os.getpid()}-{secrets.token_hex(2)}-"
        self._clients = [client(number) for number in range(clients)]
        self._addresses = {
            node: str(IPv4Address(SERVER_HOST) + at) for at, node in enumerate((SERVER, *self._clients))
        }
        self._whole = () if offloads else ("gso_max_segs", "1")  # a segment a packet: none is cut up later
        self._ip = require("ip")

    def __enter__(self) -> Namespaces:
        """Make them.

        Raises:
            BenchmarkError: not root, or the kernel refuses; nothing is left then.
        """
        if os.geteuid() != 0:
            raise BenchmarkError("network namespaces need root: run it with sudo, or with --network loopback")
        remove_left_over()
        try:
            self._add(HUB)
            self.ip(HUB, "link", "add", BRIDGE, "type", "bridge")
            self.ip(HUB, "link", "set", BRIDGE, "up")
            for node in self._addresses:
                self._attach(node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        remove([name for name in listed() if name.startswith(self._prefix)])

    def address(self, node: str) -> str:
        """Where a node is reached."""
        return self._addresses[node]

    def inside(self, node: str, command: Sequence[str]) -> list[str]:
        """The command that runs another one at a node; its process id stays that of the first."""
        return [self._ip, "netns", "exec", self._prefix + node, *command]

    def ip(self, node: str, *arguments: str) -> str:
        """What `ip` answers at a node."""
        return _answer([self._ip, "-n", self._prefix + node, *arguments])

    def slow_down(self, link: str) -> None:
        """Give every client a link of that rate, in both directions (tc's token bucket)."""
        tc, burst = require("tc"), max(MIN_BURST_BYTES, round(bits_per_second(link) / 8 * BURST_S))
        shape = ("root", "tbf", "rate", link, "burst", str(burst), "latency", QUEUE)
        for node in self._clients:
            for where, device in ((node, "eth0"), (HUB, node)):
                _answer([tc, "-n", self._prefix + where, "qdisc", "add", "dev", device, *shape])

    def _add(self, node: str) -> None:
        _answer([self._ip, "netns", "add", self._prefix + node])
        _answer(self.inside(node, ["sh", "-c", NO_IPV6]))

    def _attach(self, node: str) -> None:
        self._add(node)
        plain = ("mtu", str(MTU), *self._whole)
        peer = ("peer", "name", "eth0", "netns", self._prefix + node)
        self.ip(HUB, "link", "add", node, "type", "veth", *peer)
        self.ip(HUB, "link", "set", node, "master", BRIDGE, *plain, "up")
        self.ip(node, "link", "set", "eth0", *plain, "up")
        self.ip(node, "link", "set", "lo", "up")
        self.ip(node, "address", "add", f"{self._addresses[node]}/16", "dev", "eth0")


def require(program: str) -> str:
    """The path of one of iproute2's programs.

    Raises:
        BenchmarkError: it is not installed, with the remedy.
    """
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        raise BenchmarkError(
            f"network namespaces need `{program}`: apt install iproute2, or --network loopback"
        )
    return path


def listed() -> list[str]:
    """The machine's named namespaces."""
    return [line.split()[0] for line in _answer([require("ip"), "netns", "list"]).splitlines() if line]


def remove_left_over() -> None:
    """Remove what runs have left that are dead, and end what still runs in there."""
    remove([name for name in listed() if (ours := OURS.match(name)) and not Path("/proc", ours[1]).exists()])


def remove(names: Sequence[str]) -> None:
    """Remove namespaces, and end what still runs in them; their interfaces go with them.

    Raises:
        BenchmarkError: one could not be removed.
    """
    ip = require("ip")
    for name in names:
        inside = subprocess.run([ip, "netns", "pids", name], capture_output=True, text=True, check=False)
        for pid in map(int, inside.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run([ip, "netns", "delete", name], capture_output=True, check=False)
    if left := set(names) & set(listed()):
        raise BenchmarkError(f"cannot remove {', '.join(sorted(left))}: try `ip netns delete` on each")


def _answer(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise BenchmarkError(f"`{' '.join(command)}` failed: {said} ({HOW})")
    return done.stdout
