"""The topics: who may say what is decided by the topic, and the broker's ACL guards the topic.

::

    bramble/1/<fleet>/up/<device>/status     device  -> server   Presence (retained; also the last will)
    bramble/1/<fleet>/up/<device>/message    device  -> server   Hello, Result, BlobRequest, ReleaseReport
    bramble/1/<fleet>/up/<device>/chunk      device  -> server   Chunk
    bramble/1/<fleet>/down/<device>/message  server  -> device   Grant, Receipt, HelloRequest (signed)
    bramble/1/<fleet>/down/<device>/chunk    server  -> device   Chunk
    bramble/1/<fleet>/all/task               server  -> devices  Task (signed, retained)
    bramble/1/<fleet>/all/release            server  -> devices  Release (signed, retained)
    bramble/1/<fleet>/all/chunk              server  -> devices  Chunk

Levels are ``[A-Za-z0-9_-]`` and there are six at most, because NATS maps ``/`` to ``.`` and AWS IoT
allows seven slashes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from compression.records import Matches, Record
from edge_client.wire.errors import WireError

PROTOCOL_VERSION = 1
NAME_PATTERN = r"[A-Za-z0-9_-]{1,64}"
DeviceName = Annotated[str, Matches(NAME_PATTERN)]
FleetName = Annotated[str, Matches(NAME_PATTERN)]
AGGREGATOR = "aggregator"  # the server's client identifier and user name at the broker

STATUS, MESSAGE, CHUNK, TASK, RELEASE = "status", "message", "chunk", "task", "release"
_UP = re.compile(rf"bramble/{PROTOCOL_VERSION}/({NAME_PATTERN})/up/({NAME_PATTERN})/(status|message|chunk)")


@dataclass(frozen=True, slots=True)
class Topics(Record):
    """The topics of one fleet."""

    fleet: FleetName

    @property
    def prefix(self) -> str:
        """What all topics of the fleet begin with, without the last slash."""
        return f"bramble/{PROTOCOL_VERSION}/{self.fleet}"

    def up(self, device: str, channel: str) -> str:
        """Topic on which `device` publishes."""
        return f"{self.prefix}/up/{device}/{channel}"

    def down(self, device: str, channel: str) -> str:
        """Topic that only `device` reads."""
        return f"{self.prefix}/down/{device}/{channel}"

    def all(self, channel: str) -> str:
        """Topic that every device reads."""
        return f"{self.prefix}/all/{channel}"

    def device_filters(self, device: str) -> tuple[str, ...]:
        """What a device subscribes to."""
        return (self.down(device, "+"), self.all("+"))

    def server_filters(self) -> tuple[str, ...]:
        """What the server subscribes to."""
        return (f"{self.prefix}/up/+/+",)

    def sender(self, topic: str) -> tuple[str, str]:
        """The device and the channel of an uplink topic; raise `WireError` for any other topic."""
        match = _UP.fullmatch(topic)
        if match is None or match[1] != self.fleet:
            raise WireError(f"{topic[:200]!r} is not an uplink topic of fleet {self.fleet}")
        return match[2], match[3]
