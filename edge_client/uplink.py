"""What the device says: messages to the server, and to everybody whether it is there."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from edge_client.session.mqtt import Session, SessionError
from edge_client.wire.chunks import Chunk
from edge_client.wire.fields import Message
from edge_client.wire.frame import encode
from edge_client.wire.presence import Presence
from edge_client.wire.topics import CHUNK, MESSAGE, STATUS, Topics

log = logging.getLogger(__name__)

ACK_TIMEOUT_S = 60.0  # one chunk at 4.4 KB/s takes half of this
GOODBYE_TIMEOUT_S = 2.0  # the last will says the same


def absence(process: str) -> bytes:
    """That a process is not there: its last will, and its goodbye."""
    return encode(Presence(state="offline", session=process))


class Uplink:
    """One device's topics on their way up. All methods raise `SessionError` unless they say otherwise."""

    def __init__(self, session: Session, topics: Topics, name: str, process: str) -> None:
        self._session = session
        self._topics = topics
        self._name = name
        self._process = process

    def tell(self, message: Message, body: bytes = b"") -> None:
        """Send a message to the server."""
        self._session.publish(self._topics.up(self._name, MESSAGE), encode(message, body))

    def tell_chunks(self, chunks: Iterable[tuple[Chunk, bytes]]) -> None:
        """Return once the broker holds each of the chunks; takes minutes on a slow link."""
        topic = self._topics.up(self._name, CHUNK)
        frames = ((topic, encode(chunk, body)) for chunk, body in chunks)
        self._session.publish_many(frames, timeout_s=ACK_TIMEOUT_S)

    def say_online(self) -> None:
        """Take the place of the last will of the connection before."""
        online = encode(Presence(state="online", session=self._process))
        self._session.publish(self._topics.up(self._name, STATUS), online, retain=True)

    def say_goodbye(self) -> None:
        """Leave; never raises."""
        try:
            self._session.publish(
                self._topics.up(self._name, STATUS),
                absence(self._process),
                retain=True,
                timeout_s=GOODBYE_TIMEOUT_S,
            )
        except SessionError:
            log.info("left without a goodbye: the broker will send the last will")
