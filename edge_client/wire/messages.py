"""Every message and the number that stands for it in a frame; a number is never given twice.

What a peer may put in a field stands in its annotation. Who sent a message is never in the message: it
is read from the topic (`edge_client.wire.topics`).
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_client.wire.chunks import BlobRequest, Chunk, Grant
from edge_client.wire.fields import Message
from edge_client.wire.latency import LatencyProgress, LatencyReport, LatencyRequest
from edge_client.wire.presence import Hello, HelloRequest, Presence
from edge_client.wire.rollout import ModelHealth, Release, ReleaseReport
from edge_client.wire.rounds import Receipt, Result, Task
from edge_client.wire.upgrade import Upgrade, UpgradeReport

MESSAGE_TYPES: Mapping[int, type[Message]] = {
    1: Presence,
    2: Hello,
    3: Result,
    4: BlobRequest,
    5: ReleaseReport,
    6: Chunk,
    17: Grant,
    18: Receipt,
    19: HelloRequest,
    20: Task,
    21: Release,
    40: ModelHealth,
    45: Upgrade,
    46: UpgradeReport,
    50: LatencyRequest,
    51: LatencyReport,
    52: LatencyProgress,
}
TYPE_NUMBERS: Mapping[type[Message], int] = {cls: number for number, cls in MESSAGE_TYPES.items()}
