"""The course of a rollout as a state machine without I/O: (state, event) -> (state, commands).

A rollout offers one version to waves of devices, the canaries first. A wave is offered, decided on by its
devices' gates, and observed for a while after the switch; then the next one begins. Failures beyond the
threshold in any wave take the version back from every device that was offered it; below it, each device that
does badly after the switch goes back alone. When to offer, to wait, to stop and to take back is decided here;
publishing, clocks and the ledger are outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from compression.records import Between, Length, Record
from edge_client.wire.topics import DeviceName

Phase = Literal["offering", "observing", "paused", "complete", "rolled-back", "superseded"]
Number = Annotated[int, Between(0, 1 << 53)]
Wave = tuple[DeviceName, ...]
ROUNDING = 1e-9  # shares are quotients


@dataclass(frozen=True, slots=True)
class Rules(Record):
    """When a rollout goes on, and when it goes back. Times in seconds."""

    decide_s: float  # for the devices of a wave to decide ...
    grace_s: float  # ... of which those that are away are waited for no longer than this
    observe_s: float  # after the last decision, before the next wave
    min_success: float  # share of a wave that must have taken the version before the next one begins
    max_failed: float  # share of the devices offered so far above which the version is taken back
    automatic: bool = True  # False: after the canaries somebody says `promote`


@dataclass(frozen=True, slots=True)
class RolloutState(Record):
    """Where a rollout stands; a record, so that the ledger keeps it as it is."""

    version: Number
    waves: tuple[Wave, ...]  # the canaries first; no device twice
    back_to: Number = 0  # the version before; 0 for none
    wave: Number = 0  # index of the one at work
    phase: Phase = "offering"
    since: float = 0.0  # when the phase began
    taken: Mapping[DeviceName, str] = field(default_factory=dict)  # by whom, with the gate's reason
    failed: Mapping[DeviceName, str] = field(default_factory=dict)  # why
    sent_back: Wave = ()  # those of the failed that had taken it, in that order
    heard: Wave = ()  # of those that took it, who has said since how it does
    reason: Annotated[str, Length(0, 2000)] = ""  # of the pause or the end

    @property
    def offered(self) -> Wave:
        """Every device that has been offered the version."""
        return tuple(name for wave in self.waves[: self.wave + 1] for name in wave)

    @property
    def last(self) -> bool:
        """Whether no further wave follows."""
        return self.wave + 1 >= len(self.waves)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in ("complete", "rolled-back", "superseded")

    @property
    def undecided(self) -> frozenset[str]:
        """Devices that were offered the version and have not said what became of it."""
        return frozenset(self.offered) - frozenset(self.taken) - frozenset(self.failed)


# ---- events ----


@dataclass(frozen=True, slots=True)
class Begun:
    """The rollout is in the ledger."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A device's gate let the version through, and it answers now."""

    device: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """A device that took the version says how it does, and it does well."""

    device: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A device refused the version, or it does badly there after the switch."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Added:
    """A device that no wave holds: it belongs to the last."""

    device: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A device that counts no more: it was revoked, or has been away for too long."""

    device: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Somebody wants to look."""

    reason: str = "somebody paused it"


@dataclass(frozen=True, slots=True)
class Promote:
    """Somebody has looked: the next wave, now; or everyone."""

    everyone: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """Take it back."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; `online` are the devices that are there."""

    online: frozenset[str]


Event = Begun | Taken | Heard | Failed | Added | Gone | Pause | Promote | Abort | Tick


# ---- commands ----


@dataclass(frozen=True, slots=True)
class Offer:
    """Publish the version to these devices too."""

    devices: Wave


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Publish a signed rollback to these devices."""

    devices: Wave
    reason: str


@dataclass(frozen=True, slots=True)
class SendBack:
    """Publish a signed rollback to this device alone: it had taken the version, and does badly with it."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The rollout waits for somebody."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Every wave has it: it is the fleet's version from now on."""


Command = Offer | TakeBack | SendBack | Stopped | Finished
Step = tuple[RolloutState, tuple[Command, ...]]


def step(state: RolloutState, event: Event, rules: Rules, now: float) -> Step:
    """One step; ``now`` in seconds since 1970, so that a restarted server goes on."""
    if state.over:
        return state, ()
    match event:
        case Begun():
            return replace(state, since=now), (Offer(state.offered),)
        case Abort(reason):
            return _taken_back(state, reason, now)
        case Pause(reason):
            return _paused(state, reason, now) if state.phase != "paused" else (state, ())
        case Promote(everyone):
            return _promoted(state, everyone, now)
        case Added(device):
            return _added(state, device)
        case Gone(device):
            return _goes_on(_without(state, device), rules, now, None)
        case Taken() | Heard() | Failed() | Tick():
            online = event.online if isinstance(event, Tick) else None
            after, commands = _goes_on(_noted(state, event), rules, now, online)
            return after, (*_alone(state, after), *commands)


def _alone(before: RolloutState, after: RolloutState) -> tuple[SendBack, ...]:
    """Who goes back while the rollout goes on; all go where the version is taken back."""
    if after.phase == "rolled-back":
        return ()
    newly = after.sent_back[len(before.sent_back) :]
    return tuple(SendBack(device, after.failed[device]) for device in newly)


def _noted(state: RolloutState, event: Event) -> RolloutState:
    match event:
        case Taken(device, reason):
            return _with_taken(state, device, reason)
        case Heard(device) if device in state.taken and device not in state.heard:
            return replace(state, heard=(*state.heard, device))
        case Failed(device, reason):
            return _with_failed(state, device, reason)
    return state


def _with_taken(state: RolloutState, device: str, reason: str) -> RolloutState:
    if device in state.failed or device in state.taken or device not in state.offered:
        return state  # a device that fails after the switch stays failed
    return replace(state, taken={**state.taken, device: reason})


def _with_failed(state: RolloutState, device: str, reason: str) -> RolloutState:
    if device in state.failed or device not in state.offered:
        return state
    if device in state.taken:
        state = replace(state, sent_back=(*state.sent_back, device))
    taken = {name: why for name, why in state.taken.items() if name != device}
    return replace(state, taken=taken, failed={**state.failed, device: reason})


def _without(state: RolloutState, device: str) -> RolloutState:
    """No wave holds it, and what it said does not count; should it come back it is a new device."""
    return replace(
        state,
        waves=tuple(tuple(name for name in wave if name != device) for wave in state.waves),
        taken={name: why for name, why in state.taken.items() if name != device},
        failed={name: why for name, why in state.failed.items() if name != device},
        sent_back=tuple(name for name in state.sent_back if name != device),
        heard=tuple(name for name in state.heard if name != device),
    )


def _goes_on(state: RolloutState, rules: Rules, now: float, online: frozenset[str] | None) -> Step:
    share = len(state.failed) / max(1, len(state.offered))
    if share > rules.max_failed + ROUNDING:
        return _taken_back(state, _in_words(state), now)
    if state.phase == "offering" and not _waits(state, rules, now, online):
        return _decided(state, rules, now)
    if state.phase == "observing" and now - state.since >= rules.observe_s:
        return _observed(state, rules, now)
    return state, ()


def _waits(state: RolloutState, rules: Rules, now: float, online: frozenset[str] | None) -> bool:
    waited = now - state.since
    if waited >= rules.decide_s:
        return False
    undecided = state.undecided
    if online is not None and waited >= rules.grace_s:
        undecided &= online
    return bool(undecided)


def _decided(state: RolloutState, rules: Rules, now: float) -> Step:
    taken = len(state.taken) / max(1, len(state.offered))
    if not state.last and taken < rules.min_success - ROUNDING:
        count = f"{len(state.taken)} of {len(state.offered)} devices took it"
        return _paused(state, f"{count}, {rules.min_success:.0%} are asked for", now)
    observing = replace(state, phase="observing", since=now)
    return _goes_on(observing, rules, now, None) if rules.observe_s <= 0 else (observing, ())


def _observed(state: RolloutState, rules: Rules, now: float) -> Step:
    if state.last:
        return replace(state, phase="complete", since=now, reason=""), (Finished(),)
    if (silent := _too_silent(state, rules)) and now - state.since < rules.observe_s + rules.decide_s:
        return state, ()
    if silent:
        return _paused(state, silent, now)
    if state.wave == 0 and not rules.automatic:
        return _paused(state, "the canaries do well; `models promote` goes on", now)
    return _next_wave(state, now)


def _too_silent(state: RolloutState, rules: Rules) -> str:
    """Why what was observed is no reason to go on: a model that ends its device's program is not heard of."""
    if rules.observe_s <= 0:
        return ""
    heard = len(frozenset(state.heard) & frozenset(state.taken))
    if heard >= rules.min_success * len(state.taken) - ROUNDING:
        return ""
    return f"{heard} of the {len(state.taken)} devices that took it have said since how it does"


def _next_wave(state: RolloutState, now: float) -> Step:
    following = replace(state, wave=state.wave + 1, phase="offering", since=now, reason="")
    return following, (Offer(following.waves[following.wave]),)


def _promoted(state: RolloutState, everyone: bool, now: float) -> Step:
    if everyone and not state.last:
        rest = tuple(name for wave in state.waves[state.wave + 1 :] for name in wave)
        state = replace(state, waves=(*state.waves[: state.wave + 1], rest))
    if state.last:  # nobody is left to offer it to
        return replace(state, phase="complete", since=now, reason=""), (Finished(),)
    return _next_wave(state, now)


def _added(state: RolloutState, device: str) -> Step:
    if any(device in wave for wave in state.waves):
        return state, ()
    state = replace(state, waves=(*state.waves[:-1], (*state.waves[-1], device)))
    return state, ((Offer((device,)),) if state.last and len(state.waves) > 1 else ())


def _paused(state: RolloutState, reason: str, now: float) -> Step:
    return replace(state, phase="paused", since=now, reason=reason), (Stopped(reason),)


def _taken_back(state: RolloutState, reason: str, now: float) -> Step:
    back = replace(state, phase="rolled-back", since=now, reason=reason[:2000])
    return back, (TakeBack(state.offered, reason),)


def _in_words(state: RolloutState) -> str:
    device, why = next(iter(sorted(state.failed.items())))
    stage = "the canaries" if state.wave == 0 else f"wave {state.wave + 1}"
    return f"{len(state.failed)} of {len(state.offered)} devices failed at {stage}; {device}: {why}"[:2000]
