"""A fleet's benchmark: a request to measure a model's speed, how far it is, and the figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from edge_client.wire.blobs import BlobRef
from edge_client.wire.fields import Message, Number, Text
from edge_client.wire.measurement import Measurement, MeasurePlan
from edge_client.wire.topics import FleetName


@dataclass(frozen=True, slots=True)
class LatencyRequest(Message):
    """Measure a model's speed, when there is nothing else to do; without a file, the active one.

    ``number`` only ever grows, so a replayed request is recognised.
    """

    SIGNED: ClassVar[bool] = True
    fleet: FleetName
    number: Number
    expires: Number  # seconds since 1970; not carried out later than that
    left_s: Number = 1 << 53  # until then when it was sent: a device's clock may stand in the past
    model: BlobRef | None = None
    plan: MeasurePlan = MeasurePlan()


@dataclass(frozen=True, slots=True)
class LatencyReport(Message):
    """What a request came to: figures, or why there are none."""

    number: Number
    outcome: Literal["measured", "refused", "failed"]
    reason: Text = ""
    measurement: Measurement | None = None


@dataclass(frozen=True, slots=True)
class LatencyProgress(Message):
    """The request has come, and this is what it waits for."""

    number: Number
    state: Literal["waiting", "fetching", "measuring"]
    reason: Text = ""
