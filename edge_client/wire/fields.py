"""What messages are made of: their base, and the bounds of fields that many of them have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from compression.records import Between, Length, Matches, Record
from edge_client.wire.topics import DeviceName

MAX_COHORT = 4096

Identifier = Annotated[str, Matches(r"[0-9a-f]{16}")]
Text = Annotated[str, Length(0, 500)]
Word = Annotated[str, Length(0, 100)]
Number = Annotated[int, Between(0, 1 << 53)]
Amount = Annotated[float, Between(0, 1e15)]
Share = Annotated[float, Between(0, 1)]
Cohort = Annotated[tuple[DeviceName, ...], Length(0, MAX_COHORT)]


@dataclass(frozen=True, slots=True)
class Message(Record):
    """Base of all messages."""

    SIGNED: ClassVar[bool] = False
    HAS_BODY: ClassVar[bool] = False
