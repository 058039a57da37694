"""The course of a run as a state machine without I/O: (state, event) -> (state, commands).

A run is a list of stages. Each stage publishes a task to a cohort, waits for results, and closes with
those that came. The machine decides when to start, whom to ask, whom to stop waiting for, and whether
what came is enough; everything that touches the network, the disk or a clock is outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

StageKind = Literal["statistics", "train", "evaluate", "finetune", "calibrate"]
Phase = Literal["gathering", "starting", "working", "closing", "finished"]
DISPENSABLE = frozenset({"calibrate"})  # stages without whose results a run goes on
DISPENSABLE_TRIES = 2  # without a new result before such a stage is closed with what came


@dataclass(frozen=True, slots=True)
class Stage:
    """One task of a run; ``round`` counts the training rounds from 1 and is 0 before them."""

    kind: StageKind
    round: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """When a stage starts and ends. Times in seconds.

    With `overlapping` a training stage that has enough results leaves the others at work: what they bring
    counts in a later stage. Without, they are told to stop.
    """

    quorum: int  # results without which a stage is tried again
    wait_for: int  # devices to wait for before the first stage ...
    wait_s: float  # ... but no longer than this once the quorum is there
    deadline_s: float  # of a stage
    grace_s: float  # how long a device of the cohort may be away before it is no longer waited for
    max_tries: int = 5  # of a stage without a single new result
    retry_s: float = 5.0  # pause before a stage is tried again; doubles
    enough: int | None = None  # results that end a training stage, whoever is still at work
    overlapping: bool = False


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands."""

    stages: tuple[Stage, ...]
    index: int = 0
    phase: Phase = "gathering"
    since: float = 0.0  # when the phase began
    number: int = 0  # of the task at work
    cohort: frozenset[str] = frozenset()
    reported: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)  # device: reason
    online: frozenset[str] = frozenset()
    away_since: Mapping[str, float] = field(default_factory=dict)
    tries: int = 0  # of this stage that brought nothing new

    @property
    def stage(self) -> Stage | None:
        """The stage at work; None when all are done."""
        return self.stages[self.index] if self.index < len(self.stages) else None

    @property
    def outstanding(self) -> frozenset[str]:
        """Devices of the cohort from which nothing has come."""
        return self.cohort - self.reported - frozenset(self.failed)


# ---- events ----


@dataclass(frozen=True, slots=True)
class Joined:
    """A device is connected and fit to take part."""

    device: str


@dataclass(frozen=True, slots=True)
class Left:
    """A device is gone."""

    device: str


@dataclass(frozen=True, slots=True)
class Started:
    """The task that `StartStage` asked for is published, to the devices that were selected for it."""

    number: int
    cohort: tuple[str, ...] | None = None  # None: to all that were named


@dataclass(frozen=True, slots=True)
class Reported:
    """A result that counts for the stage at work is durable, or the device says it failed.

    It may be of an earlier try: the weights it began from are the same. Where late results count, it may be
    of an earlier stage.
    """

    device: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """The stage that `CloseStage` asked for is aggregated and durable."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed, and everything that came before has been told."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """The task that `StartStage` asked for cannot be made; the stage is one that a run can do without."""


Event = Joined | Left | Started | Reported | Closed | Tick | Skipped


# ---- commands ----


@dataclass(frozen=True, slots=True)
class StartStage:
    """Publish this task to this cohort or a selection of it, then say `Started`."""

    stage: Stage
    cohort: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CloseStage:
    """Aggregate what came, then say `Closed`."""

    stage: Stage
    number: int
    devices: tuple[str, ...]
    dropped: Mapping[str, str]  # device: why nothing of it is in
    released: tuple[str, ...] = ()  # devices still at work when there were enough results


@dataclass(frozen=True, slots=True)
class RetryStage:
    """Too little came: the stage starts again with the devices that are there then.

    Results that were accepted stay: their devices have already let go of them.
    """

    stage: Stage
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class FinishRun:
    """All stages are closed."""


@dataclass(frozen=True, slots=True)
class FailRun:
    """A stage came to nothing several times in a row: somebody has to look."""

    stage: Stage
    reason: str


Command = StartStage | CloseStage | RetryStage | FinishRun | FailRun


def step(state: RunState, event: Event, rules: Rules, now: float) -> tuple[RunState, tuple[Command, ...]]:
    """One step; ``now`` in seconds from any fixed point, never going back."""
    return steps(state, (event,), rules, now)


def steps(
    state: RunState, events: Sequence[Event], rules: Rules, now: float
) -> tuple[RunState, tuple[Command, ...]]:
    """One step by several events that came to pass together; what they come to is decided once."""
    before = state.phase
    for event in events:
        state = _noted(state, event, now)
    if state.phase == "finished":
        return state, () if before == "finished" else (FinishRun(),)
    if Skipped() in events and state.phase == "starting":
        return _closing(state, {}, now)
    if state.phase == "gathering":
        return _maybe_start(state, rules, now)
    if state.phase == "working":
        return _maybe_close(state, rules, now, waited=Tick() in events)
    return state, ()


def _noted(state: RunState, event: Event, now: float) -> RunState:
    match event:
        case Joined(device):
            away = {name: at for name, at in state.away_since.items() if name != device}
            return replace(state, online=state.online | {device}, away_since=away)
        case Left(device):
            away = dict(state.away_since)
            away.setdefault(device, now)
            return replace(state, online=state.online - {device}, away_since=away)
        case Started(number, asked) if state.phase == "starting":
            cohort = state.cohort if asked is None else frozenset(asked)
            away = dict.fromkeys(cohort - state.online, now)
            return replace(state, phase="working", since=now, number=number, cohort=cohort, away_since=away)
        case Reported(device, None) if state.phase not in ("closing", "finished"):
            failed = {name: why for name, why in state.failed.items() if name != device}
            return replace(state, reported=state.reported | {device}, failed=failed, tries=0)
        case Reported(device, str(problem)) if state.phase == "working" and device in state.outstanding:
            return replace(state, failed={**state.failed, device: problem})
        case Closed() if state.phase == "closing":
            following = replace(_gathering(state, now), index=state.index + 1, reported=frozenset(), tries=0)
            return following if following.stage else replace(following, phase="finished")
    return state


def _gathering(state: RunState, now: float) -> RunState:
    return replace(state, phase="gathering", since=now, cohort=frozenset(), failed={})


def _maybe_start(state: RunState, rules: Rules, now: float) -> tuple[RunState, tuple[Command, ...]]:
    if now - state.since < _pause(state, rules):
        return state, ()
    here = len(state.online | state.reported)
    waited = now - state.since >= rules.wait_s
    enough = here >= rules.wait_for or (here >= rules.quorum and (waited or state.index > 0))
    cohort = tuple(sorted(state.online - state.reported))
    if len(state.reported) >= rules.quorum and (not cohort or _enough(state, rules)):
        return _closing(state, {}, now)
    if not (enough and cohort and state.stage):
        return _closing(state, {}, now) if waited and _dispensable(state) else (state, ())
    started = replace(state, phase="starting", since=now, cohort=frozenset(cohort))
    return started, (StartStage(state.stage, cohort),)


def _maybe_close(
    state: RunState, rules: Rules, now: float, *, waited: bool
) -> tuple[RunState, tuple[Command, ...]]:
    """Nobody is late or away for too long before a `Tick`: what has come may not all be seen yet."""
    if _enough(state, rules):
        return _closing(state, dict(state.failed), now, released=state.outstanding)
    late = waited and now - state.since >= rules.deadline_s * (1 + state.tries)
    away = state.outstanding & frozenset(state.away_since) if waited else frozenset[str]()
    gone = {name for name in away if now - state.away_since[name] >= rules.grace_s}
    if state.outstanding - gone and not late:
        return state, ()
    enough_tries = _dispensable(state) and state.tries + 1 >= DISPENSABLE_TRIES
    if len(state.reported) < rules.quorum and not enough_tries:
        return _retry(state, rules, now)
    missing = {name: "away" if name in gone else "late" for name in state.outstanding}
    on = state.outstanding - gone if rules.overlapping else frozenset()
    dropped = {name: why for name, why in missing.items() if name not in on}
    return _closing(state, dict(state.failed) | dropped, now, released=on)


def _dispensable(state: RunState) -> bool:
    return state.stage is not None and state.stage.kind in DISPENSABLE


def _enough(state: RunState, rules: Rules) -> bool:
    """Whether a training stage need not wait for anybody."""
    if rules.enough is None or state.stages[state.index].kind != "train":
        return False
    return len(state.reported) >= max(rules.enough, rules.quorum)


def _closing(
    state: RunState, dropped: Mapping[str, str], now: float, released: frozenset[str] = frozenset()
) -> tuple[RunState, tuple[Command, ...]]:
    stage = state.stages[state.index]
    devices = tuple(sorted(state.reported))
    command = CloseStage(stage, state.number, devices, dropped, tuple(sorted(released)))
    return replace(state, phase="closing", since=now), (command,)


def _retry(state: RunState, rules: Rules, now: float) -> tuple[RunState, tuple[Command, ...]]:
    stage, tries = state.stages[state.index], state.tries + 1
    reason = f"{len(state.reported)} of the {rules.quorum} results needed"
    if problems := sorted(set(state.failed.values())):
        reason += f" ({problems[0]})"
    if tries >= rules.max_tries:
        return state, (FailRun(stage, reason),)
    return replace(_gathering(state, now), tries=tries), (RetryStage(stage, state.number, reason),)


def _pause(state: RunState, rules: Rules) -> float:
    return rules.retry_s * 2 ** (state.tries - 1) if state.tries else 0.0
