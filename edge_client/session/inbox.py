"""What the connection has brought and nobody has read yet, bounded in messages and in bytes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition

INBOX_MESSAGES = 2000
INBOX_BYTES = 32 << 20  # 256 chunks; a Raspberry Pi Zero has 512 MB in all


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message; `acknowledge` tells the broker that it is dealt with (sessions with manual_ack)."""

    topic: str
    payload: bytes
    retained: bool
    acknowledge: Callable[[], object]
    at: float = field(default_factory=time.monotonic)  # when it came in: it may be read much later


@dataclass(frozen=True, slots=True)
class ConnectionChange:
    """The connection came up (subscriptions are in place) or went down."""

    connected: bool
    reason: str


class Inbox:
    """A queue from the library's thread to the caller's."""

    def __init__(self, *, messages: int = INBOX_MESSAGES, size: int = INBOX_BYTES) -> None:
        self._max_messages, self._max_bytes = messages, size
        self._items: deque[Incoming | ConnectionChange] = deque()
        self._messages = self._bytes = 0
        self._changed = Condition()

    def put(self, item: Incoming) -> bool:
        """Keep a message; False, and nothing is kept, where there is no room."""
        with self._changed:
            if self._messages >= self._max_messages or self._bytes + len(item.payload) > self._max_bytes:
                return False
            self._items.append(item)
            self._messages += 1
            self._bytes += len(item.payload)
            self._changed.notify()
            return True

    def note(self, change: ConnectionChange) -> None:
        """Keep news of the connection, for which there is always room."""
        with self._changed:
            self._items.append(change)
            self._changed.notify()

    def get(self, timeout_s: float) -> Incoming | ConnectionChange | None:
        """The oldest item; None after the time-out."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._items), max(0.0, timeout_s)):
                return None
            item = self._items.popleft()
            if isinstance(item, Incoming):
                self._messages -= 1
                self._bytes -= len(item.payload)
            return item

    def has_room(self) -> bool:
        """Whether half of it is free."""
        with self._changed:
            return 2 * self._messages <= self._max_messages and 2 * self._bytes <= self._max_bytes
