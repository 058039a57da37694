"""What the rounds so far say of each device: a fold over their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from broker_server.cohort.base import Candidate
from broker_server.records import ClientRecord, RoundRecord
from edge_client.wire.presence import Health, Hello


@dataclass(frozen=True, slots=True)
class Track:
    """One device's part in the rounds so far; see `Candidate`."""

    asked: int = 0  # and waited for to the end
    counted: int = 0
    last_asked: int = 0  # round; 0 is never
    seconds: float = 0.0  # of all its answers, by the server's clock: what a device says may flatter
    loss: float | None = None
    loss_round: int = 0
    health: Health | None = None


Tracks = Mapping[str, Track]


def after_round(tracks: Tracks, record: RoundRecord) -> Tracks:
    """The tracks with one more round in them."""
    following = dict(tracks)
    for name in {*record.clients, *record.dropped, *record.released}:
        track = following.get(name, Track())
        waited_for = name not in record.released
        track = replace(track, asked=track.asked + waited_for, last_asked=record.round)
        if (part := record.clients.get(name)) is not None:
            track = _counted(track, part, record.round)
        following[name] = track
    return following


def _counted(track: Track, part: ClientRecord, round_number: int) -> Track:
    return replace(
        track,
        counted=track.counted + 1,
        seconds=track.seconds + (part.answered_s or part.seconds),
        loss=part.loss,
        loss_round=round_number,
        health=part.health or track.health,
    )


def candidates(
    names: Iterable[str], hellos: Mapping[str, Hello], tracks: Tracks, *, round_number: int, max_examples: int
) -> list[Candidate]:
    """What is known of these devices before a round; a claim of examples counts up to `max_examples`."""
    found = [_candidate(name, hellos[name], tracks.get(name, Track()), round_number) for name in names]
    return [replace(one, examples=min(one.examples, max_examples)) for one in found]


def _candidate(name: str, hello: Hello, track: Track, round_number: int) -> Candidate:
    health = track.health or hello.health
    return Candidate(
        name=name,
        examples=hello.data.examples,
        cores=hello.cores,
        free_memory_mb=health.free_memory_mb,
        temperature_c=health.temperature_c,
        throttled=health.throttled,
        on_mains=health.on_mains,
        asked=track.asked,
        counted=track.counted,
        waited=round_number - 1 - track.last_asked,
        seconds=track.seconds / track.counted if track.counted else None,
        loss=track.loss,
        loss_round=track.loss_round,
    )
