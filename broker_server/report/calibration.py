"""How a released int8 model's activation ranges were found, as a part of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from broker_server.report.fields import Count, Sentence, Share
from compression.records import Record
from edge_client.wire.topics import DeviceName

How = Literal["federated", "server", "none"]


@dataclass(frozen=True, slots=True)
class ComparedCalibration(Record):
    """The same weights as an int8 file, calibrated in one way, on the held-out examples."""

    how: How
    accuracy: Share | None = None
    loss: float | None = None
    auc: Share | None = None
    size_bytes: Count | None = None
    activations: Literal["full-integer", "dynamic-range", "none"] | None = None


@dataclass(frozen=True, slots=True)
class CalibrationFigures(Record):
    """Where the ranges came from.

    Attributes:
        asked: by the settings.
        used: for the release; another one than asked where that was not to be had.
        devices: whose ranges were merged, and over how many of their examples.
        missing: who was asked and is not in them, and why.
        clip_percent, noise: that the devices were asked for.
        compared: what the other ways would have given; empty without held-out examples.
    """

    asked: How
    used: How
    devices: Mapping[DeviceName, Count] = field(default_factory=dict)
    missing: Mapping[DeviceName, Sentence] = field(default_factory=dict)
    clip_percent: float | None = None
    noise: float | None = None
    compared: tuple[ComparedCalibration, ...] = ()
