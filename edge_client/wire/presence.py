"""Who is there: whether a device is connected, what it is and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from compression.records import Between, Record
from edge_client.wire.fields import Amount, Identifier, Message, Number, Word
from edge_client.wire.summary import DataSummary


@dataclass(frozen=True, slots=True)
class Presence(Message):
    """Retained, and the last will: whether the device is connected."""

    state: Literal["online", "offline"]
    session: Identifier  # of the process, so that an old process's last will does not hide a new one


@dataclass(frozen=True, slots=True)
class Health(Record):
    """The device's own state; None where there is no sensor."""

    peak_rss_mb: Amount
    free_memory_mb: Amount
    free_disk_mb: Amount
    temperature_c: Annotated[float, Between(-60, 200)] | None = None
    throttled: bool | None = None
    on_mains: bool | None = None
    imports_tensorflow: bool = False


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """Sent after each connection: what the device is and what it has."""

    session: Identifier
    version: Word
    architecture: Word
    board: Word  # as the device tree names it; empty where there is none
    python: Word
    runtime: Word
    cores: Annotated[int, Between(1, 4096)]
    memory_mb: Amount
    data: DataSummary
    health: Health
    model_version: Number = 0  # of the active release; 0 without one


@dataclass(frozen=True, slots=True)
class HelloRequest(Message):
    """Please introduce yourself again: the broker says you are there, and no hello has come.

    A hello is lost when a device connects before the server has ever subscribed.
    """

    SIGNED: ClassVar[bool] = True
    session: Identifier  # as the presence says it
