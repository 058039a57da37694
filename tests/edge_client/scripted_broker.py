"""A broker of a few lines for MQTT 3.1.1 that does what a test says, wrong things included."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from edge_client.session.address import BrokerAddress

CONNECT, PUBACK, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 4, 8, 12, 14


def publish_packet(topic: bytes, payload: bytes, mid: int) -> bytes:
    """A QoS 1 PUBLISH of less than 128 bytes."""
    rest = len(topic).to_bytes(2, "big") + topic + mid.to_bytes(2, "big") + payload
    assert len(rest) < 128
    return bytes([0x32, len(rest)]) + rest


class ScriptedBroker:
    """Accepts one client at a time; what it received is in `acknowledged` and `goodbyes`."""

    def __init__(self, *, refuse_subscriptions: int = 0, on_subscribed: bytes = b"") -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._refuse = refuse_subscriptions
        self.on_subscribed = on_subscribed  # sent to each client behind its SUBACK
        self.connections = self.goodbyes = 0
        self.acknowledged: list[tuple[int, int]] = []  # number of the connection, message identifier
        self.peer: socket.socket | None = None
        self.changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def address(self) -> BrokerAddress:
        return BrokerAddress("127.0.0.1", self._server.getsockname()[1], protocol="3.1.1")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.hang_up()

    def send(self, packet: bytes) -> None:
        assert self.peer is not None
        self.peer.sendall(packet)

    def hang_up(self) -> None:
        if self.peer is not None:
            with contextlib.suppress(OSError):
                self.peer.shutdown(socket.SHUT_RDWR)

    def wait_for(self, condition: object, timeout_s: float = 15.0) -> None:
        """Until a condition on this broker holds."""
        assert callable(condition)
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), "the broker waited in vain"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.peer, _ = self._server.accept()
                with contextlib.suppress(OSError), self.peer.makefile("rb") as stream:
                    while (head := stream.read(2)) and len(head) == 2:
                        self._take(head[0] >> 4, stream.read(_length(head[1], stream)))
                self.peer.close()

    def _take(self, kind: int, body: bytes) -> None:
        with self.changed:
            if kind == CONNECT:
                self.connections += 1
                self.send(b"\x20\x02\x00\x00")
            elif kind == SUBSCRIBE:
                self._refuse -= 1
                self.send(b"\x90\x03" + body[:2] + (b"\x80" if self._refuse >= 0 else b"\x01"))
                if self._refuse < 0:
                    self.send(self.on_subscribed)
            elif kind == PUBACK:
                self.acknowledged.append((self.connections, int.from_bytes(body[:2], "big")))
            elif kind == PINGREQ:
                self.send(b"\xd0\x00")
            elif kind == DISCONNECT:
                self.goodbyes += 1
            self.changed.notify_all()


def _length(first: int, stream: object) -> int:
    """A packet's remaining length; the clients of these tests send nothing long."""
    length, shift = first & 127, 7
    while first & 128:
        first = stream.read(1)[0]  # type: ignore[attr-defined]
        length |= (first & 127) << shift
        shift += 7
    return length
