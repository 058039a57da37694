"""What a comparison's figures were measured in, for the result: network, what bytes are of, cores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.errors import BenchmarkError
from benchmarks.namespaces import FRAME_BYTES

STREAMS = "TCP streams, counted by a relay before the server"
FRAMES = "frames at the bridge's ports of the clients, headers of Ethernet, IP and TCP included"


@dataclass(frozen=True, slots=True)
class Cores:
    """Which processors the systems have, and which the rig: sampler, counter, this program."""

    systems: tuple[int, ...]
    rig: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Setup:
    """Where the systems ran.

    Attributes:
        network: ``loopback`` or ``namespaces``.
        bytes_of: what the bytes are bytes of.
        mtu: of every link, bytes.
        frame_bytes: mean size of the frames that carried a megabyte, the direction in which they were larger;
            more than the MTU and 14 where segmentation was left to the interfaces. None on loopback.
        offloads: whether that was asked for.
        link: rate of each client's link in both directions, as tc writes it; None where nothing holds it up.
        cores: None where every process may run on all of them.
    """

    network: str
    bytes_of: str
    mtu: int
    frame_bytes: float | None = None
    offloads: bool = False
    link: str | None = None
    cores: Cores | None = None

    def brief(self) -> str:
        """At the end of a sentence."""
        if self.frame_bytes is None:
            return "on loopback"
        rate = f" and {self.link} each way" if self.link else ""
        return f"over links with an MTU of {self.mtu}{rate}{', offloads left on' if self.offloads else ''}"

    def words(self) -> str:
        """Under a table."""
        return f"{self._place()}\nBytes: {self.bytes_of}.\n{self._processors()}"

    def _place(self) -> str:
        if self.frame_bytes is None:
            return f"Network: loopback, with an MTU of {self.mtu}, where a byte costs next to nothing."
        done = "offloads off" if self.frame_bytes <= FRAME_BYTES else "OFFLOADS COULD NOT BE SWITCHED OFF"
        done = "offloads left on" if self.offloads else done
        rate = f"links of {self.link} each way" if self.link else "links as fast as the machine"
        return (
            f"Network: a namespace each, a veth pair to one bridge, MTU {self.mtu}, {done} (frames of "
            f"{self.frame_bytes:.0f} bytes in a long transfer), no IPv6, {rate}."
        )

    def _processors(self) -> str:
        if self.cores is None:
            return "Cores: all processes share all of them."
        systems, rig = (", ".join(map(str, each)) for each in (self.cores.systems, self.cores.rig))
        return f"Cores: all systems on core {systems}; sampler and counter on {rig}."


def choose_cores() -> Cores:
    """The last core for all systems, the others for the rig: interrupts favour the first.

    Raises:
        BenchmarkError: there is one core only.
    """
    *rig, last = sorted(os.sched_getaffinity(0))
    if not rig:
        raise BenchmarkError(
            "--pin needs two cores, one for the systems and one for the sampler: leave it out"
        )
    return Cores((last,), tuple(rig))


@contextlib.contextmanager
def on_cores(cores: Sequence[int] | None) -> Iterator[None]:
    """Keep this thread, and what it starts, on some cores for a while; None leaves everything as it is."""
    before = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
