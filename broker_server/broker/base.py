"""What the server asks of a broker, whichever of the three kinds it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Literal, Self

from compression.errors import BrambleError
from edge_client.session.address import BrokerAddress

Kind = Literal["embedded", "mosquitto", "external"]

# Upper bound of one MQTT packet. The transfer unit is a 128 KiB chunk; the rest is room, and well under
# the stock limits of EMQX, NATS (1 MB) and mosquitto 2.1 (2,000,000 bytes).
MAX_PACKET_BYTES = 1_048_576


class BrokerError(BrambleError):
    """The broker cannot be started, reached or used; the message says what to do about it."""


class Broker(ABC):
    """A broker that this process starts and stops, or only talks to.

    `start` returns once the broker answers; addresses are valid from then on and stay the same over
    `restart`. Use it as a context manager.
    """

    kind: ClassVar[Kind]
    # Counter of messages that the broker acknowledged and then threw away; None where it has none.
    dropped_topic: ClassVar[str | None] = None

    @abstractmethod
    def start(self) -> None:
        """Start it, or check that it can be used; raise `BrokerError` otherwise."""

    @abstractmethod
    def stop(self) -> None:
        """End what `start` started. Calling it again does nothing."""

    @abstractmethod
    def restart(self) -> None:
        """Stop and start on the same port."""

    @abstractmethod
    def alive(self) -> bool:
        """Whether it accepts connections now."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people: what it is, where it listens, how clients are known."""

    @abstractmethod
    def server_address(self) -> BrokerAddress:
        """Where and as whom the aggregator connects."""

    @abstractmethod
    def device_address(self, name: str) -> BrokerAddress:
        """Where and as whom a device process on this machine connects."""

    def apply_revocations(self) -> None:
        """Make the certificate authority's revocations hold now; nothing to do without certificates."""
        return

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
