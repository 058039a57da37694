"""Where the systems run and what counts their bytes: this machine's loopback, or a namespace each."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.namespaces import HUB, MTU, SERVER, SERVER_HOST, Namespaces, bits_per_second, client
from benchmarks.peers.counting import Counted, counting
from benchmarks.peers.plan import Plan
from benchmarks.peers.setup import FRAMES, STREAMS, Cores, Setup, choose_cores, on_cores
from benchmarks.processes import our_environment
from provisioning.pki.identity import LOOPBACK

CHILD = (sys.executable, "-m")
LOOPBACK_MTU = Path("/sys/class/net/lo/mtu")
TRANSFER_S = 60.0


class Network(ABC):
    """Places for a server and its clients.

    Attributes:
        host: where the server's side listens.
    """

    host: str
    setup: Setup

    @abstractmethod
    def placed(self, command: Sequence[str], at: int | None) -> list[str]:
        """The command that runs another one at a client's place, or, for None, at the server's."""

    @abstractmethod
    def counted(self, port: int) -> AbstractContextManager[Counted]:
        """Count what passes between clients and the server's port; it says where clients connect."""


class Loopback(Network):
    """All on 127.0.0.1, clients behind a relay."""

    host = LOOPBACK

    def __init__(self, cores: Cores | None = None) -> None:
        self.setup = Setup("loopback", STREAMS, int(LOOPBACK_MTU.read_text()), cores=cores)

    def placed(self, command: Sequence[str], at: int | None) -> list[str]:  # noqa: ARG002 - one place for all
        """The command itself."""
        return list(command)

    def counted(self, port: int) -> AbstractContextManager[Counted]:
        """Through a relay."""
        return counting([*CHILD, "benchmarks.relay", str(port)], self.host)


class Spaced(Network):
    """A namespace for the server and for each client (`benchmarks.namespaces`), which are entered."""

    host = SERVER_HOST

    def __init__(self, spaces: Namespaces, plan: Plan, cores: Cores | None) -> None:
        """Links are slowed down last: what is sent to try them out would take minutes on a slow one."""
        self._spaces = spaces
        frame_bytes = max(_frame_bytes(spaces, *pair) for pair in ((SERVER, client(0)), (client(0), SERVER)))
        if plan.link is not None:
            spaces.slow_down(plan.link)
        self.setup = Setup("namespaces", FRAMES, MTU, frame_bytes, plan.offloads, plan.link, cores)

    def placed(self, command: Sequence[str], at: int | None) -> list[str]:
        """In that node's namespace."""
        return self._spaces.inside(SERVER if at is None else client(at), command)

    def counted(self, port: int) -> AbstractContextManager[Counted]:
        """By the bridge's ports."""
        command = self._spaces.inside(HUB, [*CHILD, "benchmarks.ports"])
        return counting(command, self.host, port)


def check_network(plan: Plan) -> None:
    """Raise `BenchmarkError` for a link's rate that is none, and for what loopback does not have."""
    if plan.link is not None:
        bits_per_second(plan.link)
    if plan.network == "loopback" and (plan.link is not None or plan.offloads):
        raise BenchmarkError("--link and --offloads need --network namespaces: loopback has no links")


@contextlib.contextmanager
def open_network(plan: Plan) -> Iterator[Network]:
    """The network that is asked for, this program on the rig's cores; all is undone on every way out.

    Raises:
        BenchmarkError: it cannot be had here, with the remedy.
    """
    cores = choose_cores() if plan.pin else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_cores(cores.rig if cores else None))
        if plan.network == "loopback":
            yield Loopback(cores)
        else:
            spaces = stack.enter_context(Namespaces(plan.clients, offloads=plan.offloads))
            yield Spaced(spaces, plan, cores)


def _frame_bytes(spaces: Namespaces, sender: str, receiver: str) -> float:
    """Mean size of the frames that come from a node while it sends a megabyte to another."""
    before = _received(spaces, sender)
    child, environment = [*CHILD, "benchmarks.transfer"], our_environment()
    host = spaces.address(receiver)
    receive = spaces.inside(receiver, [*child, "receive", host])
    with subprocess.Popen(receive, stdout=subprocess.PIPE, env=environment) as reading:
        port = reading.stdout.readline().decode().strip() if reading.stdout else ""
        send = spaces.inside(sender, [*child, "send", host, port])
        done = subprocess.run(send, env=environment, timeout=TRANSFER_S, capture_output=True, check=False)
        if done.returncode:
            reading.kill()
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise BenchmarkError(f"nothing gets from {sender} to {receiver} in the namespaces: {said}")
    after = _received(spaces, sender)
    return (after[0] - before[0]) / (after[1] - before[1])


def _received(spaces: Namespaces, node: str) -> tuple[int, int]:
    """Bytes and packets that the bridge had from a node so far."""
    counters = json.loads(spaces.ip(HUB, "-s", "-j", "link", "show", node))[0]["stats64"]["rx"]
    return int(counters["bytes"]), int(counters["packets"])
