"""What a run tells whoever watches it: one frozen value an event, one method an event.

The server calls a `RunObserver`; the terminal's `RoundDisplay` is one, a web page can be another. The
events are records, so `compression.records.to_plain` makes JSON of them. An observer must return soon
and must not raise: the run waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

from broker_server.report.fields import Amount, Count, Share
from broker_server.report.rounds import RoundFigures
from compression.records import Length, Record
from edge_client.wire.topics import DeviceName

Text = Annotated[str, Length(0, 2000)]


@dataclass(frozen=True, slots=True)
class DeviceJoined(Record):
    """A device said hello, for the first time or after it was away."""

    TAG: ClassVar[str] = "device_joined"
    device: DeviceName
    examples: Count
    runtime: Text = ""
    architecture: Text = ""
    returned: bool = False


@dataclass(frozen=True, slots=True)
class RoundStarted(Record):
    """A round began; `rounds` is how many there are to be, None where that is open."""

    TAG: ClassVar[str] = "round_started"
    round: Count
    cohort: tuple[DeviceName, ...]
    rounds: Count | None = None


@dataclass(frozen=True, slots=True)
class UpdateReceived(Record):
    """An update was counted, and is on disk."""

    TAG: ClassVar[str] = "update_received"
    round: Count
    device: DeviceName
    examples: Count
    bytes_up: Count
    loss: float | None = None  # mean over local training
    seconds: Amount | None = None  # of local training


@dataclass(frozen=True, slots=True)
class RoundFinished(Record):
    """A round is over and its checkpoint on disk."""

    TAG: ClassVar[str] = "round_finished"
    figures: RoundFigures


@dataclass(frozen=True, slots=True)
class DeviceLeft(Record):
    """A device is gone: said so, or its last will did."""

    TAG: ClassVar[str] = "device_left"
    device: DeviceName
    reason: Text = ""


@dataclass(frozen=True, slots=True)
class ReleaseResult(Record):
    """What became of the released model on one device."""

    TAG: ClassVar[str] = "release_result"
    device: DeviceName
    version: Count
    verdict: Literal["activated", "refused", "rolled-back"]
    reason: Text = ""
    accuracy: Share | None = None
    latency_p50_ms: Amount | None = None


@dataclass(frozen=True, slots=True)
class Note(Record):
    """Anything else worth a line: a stage that begins, or trouble that was met."""

    TAG: ClassVar[str] = "note"
    text: Text
    level: Literal["info", "warning"] = "info"


class RunObserver(Protocol):
    """Is told what happens; may be called from several threads."""

    def device_joined(self, event: DeviceJoined, /) -> None: ...
    def round_started(self, event: RoundStarted, /) -> None: ...
    def update_received(self, event: UpdateReceived, /) -> None: ...
    def round_finished(self, event: RoundFinished, /) -> None: ...
    def device_left(self, event: DeviceLeft, /) -> None: ...
    def release_result(self, event: ReleaseResult, /) -> None: ...
    def note(self, event: Note, /) -> None: ...


class NullObserver:
    """Tells nobody."""

    def device_joined(self, event: DeviceJoined, /) -> None:
        """Nothing."""

    def round_started(self, event: RoundStarted, /) -> None:
        """Nothing."""

    def update_received(self, event: UpdateReceived, /) -> None:
        """Nothing."""

    def round_finished(self, event: RoundFinished, /) -> None:
        """Nothing."""

    def device_left(self, event: DeviceLeft, /) -> None:
        """Nothing."""

    def release_result(self, event: ReleaseResult, /) -> None:
        """Nothing."""

    def note(self, event: Note, /) -> None:
        """Nothing."""


class Observers:
    """Tells several, in order."""

    def __init__(self, observers: Sequence[RunObserver]) -> None:
        self._observers = tuple(observers)

    def device_joined(self, event: DeviceJoined, /) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.device_joined(event)

    def round_started(self, event: RoundStarted, /) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.round_started(event)

    def update_received(self, event: UpdateReceived, /) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.update_received(event)

    def round_finished(self, event: RoundFinished, /) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.round_finished(event)

    def device_left(self, event: DeviceLeft, /) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.device_left(event)

    def release_result(self, event: ReleaseResult, /) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.release_result(event)

    def note(self, event: Note, /) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.note(event)
