"""The rollout machine: waves, thresholds, pauses, the way back; answers by hand, and what always holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_server.rollout.machine import (
    Abort,
    Added,
    Begun,
    Command,
    Event,
    Failed,
    Finished,
    Gone,
    Heard,
    Offer,
    Pause,
    Promote,
    RolloutState,
    Rules,
    SendBack,
    Stopped,
    TakeBack,
    Taken,
    Tick,
    step,
)
from broker_server.rollout.planning import RolloutError, parse_canary, plan_waves, waves_text
from compression.records import dumps, loads

RULES = Rules(decide_s=100.0, grace_s=20.0, observe_s=10.0, min_success=0.8, max_failed=0.25)
WAVES = (("a", "b", "c", "d"), ("e", "f"), ("g", "h", "i", "j"))
EVERYONE = frozenset("abcdefghij")
START = RolloutState(version=2, waves=WAVES, back_to=1)


class Course:
    """A rollout and its clock."""

    def __init__(self, rules: Rules = RULES, state: RolloutState = START) -> None:
        self.rules, self.state, self.now = rules, state, 1000.0
        self.did: list[Command] = []
        self.tell(Begun())

    def tell(self, *events: Event, after: float = 0.0) -> list[Command]:
        self.now += after
        before = len(self.did)
        for event in events:
            self.state, commands = step(self.state, event, self.rules, self.now)
            self.did += commands
        return self.did[before:]

    def take(self, names: str) -> list[Command]:
        """They take it, and say soon after that it does well."""
        return self.tell(*(event for name in names for event in (Taken(name, "good"), Heard(name))))

    def wait(self, seconds: float, online: frozenset[str] = EVERYONE) -> list[Command]:
        return self.tell(Tick(online), after=seconds)


def test_wave_by_wave_to_the_end() -> None:
    course = Course()
    assert course.did == [Offer(WAVES[0])]
    assert course.take("abcd") == []
    assert course.state.phase == "observing"
    assert course.wait(9.9) == []
    assert course.wait(0.1) == [Offer(WAVES[1])]
    course.take("ef")
    assert course.wait(10) == [Offer(WAVES[2])]
    course.take("ghij")
    assert course.wait(10) == [Finished()]
    assert course.state.over
    assert course.tell(Failed("a", "late"), Abort("no"), Pause(), Promote()) == []  # it is over


def test_failures_up_to_the_threshold_are_borne_and_one_more_is_not() -> None:
    course = Course()
    assert course.tell(Failed("a", "slow")) == []  # 1 of 4 is 0.25
    (back,) = course.tell(Failed("b", "wrong"))
    assert back == TakeBack(WAVES[0], course.state.reason)
    assert course.state.reason == "2 of 4 devices failed at the canaries; a: slow"
    assert course.state.phase == "rolled-back"


def test_a_canary_that_fails_after_the_switch_counts_in_later_waves_too() -> None:
    course = Course(replace(RULES, max_failed=0.0))
    course.take("abcd")
    course.wait(10)
    course.take("ef")
    (back,) = course.tell(Failed("b", "errors"))
    assert isinstance(back, TakeBack)
    assert back.devices == ("a", "b", "c", "d", "e", "f")
    assert back.reason == "1 of 6 devices failed at wave 2; b: errors"


def test_a_device_that_fails_after_the_switch_goes_back_alone_within_the_threshold() -> None:
    course = Course()
    course.take("abcd")
    assert course.tell(Failed("b", "errors"), Failed("b", "again")) == [SendBack("b", "errors")]
    assert course.state.sent_back == ("b",)
    (back,) = course.tell(Failed("c", "errors"))  # one more: everyone goes back, and nobody twice
    assert back == TakeBack(WAVES[0], course.state.reason)


def test_a_device_that_never_took_it_has_nothing_to_go_back_from() -> None:
    course = Course()
    assert course.tell(Failed("b", "refused at the gate")) == []
    first = Course(state=replace(START, back_to=0))
    first.take("abcd")
    assert first.tell(Failed("b", "errors")) == [SendBack("b", "errors")]  # to no model at all


def test_devices_that_took_it_and_fell_silent_are_no_reason_to_go_on() -> None:
    course = Course()
    course.take("a")
    course.tell(Taken("b"), Taken("c"), Taken("d"))  # and their programs ended with the model
    assert course.wait(10) == []
    assert course.wait(99.9) == []  # they may come back: as long as a device has to decide
    (stopped,) = course.wait(0.1)
    assert stopped == Stopped("1 of the 4 devices that took it have said since how it does")
    assert course.tell(Promote()) == [Offer(WAVES[1])]
    late = Course()
    late.take("abc")
    late.tell(Taken("d"), Heard("d"), Heard("d"), Heard("stranger"))
    assert late.wait(10) == [Offer(WAVES[1])] and late.state.heard == ("a", "b", "c", "d")


def test_a_failed_device_stays_failed() -> None:
    course = Course()
    course.tell(Failed("a", "slow"), Taken("a"))
    assert course.state.failed == {"a": "slow"}
    assert "a" not in course.state.taken


def test_too_few_takers_pause_and_somebody_promotes() -> None:
    course = Course()
    course.take("ab")
    assert course.wait(19, frozenset("ab")) == []  # c and d may come back within the grace
    assert course.wait(1, frozenset("ab")) == [Stopped("2 of 4 devices took it, 80% are asked for")]
    assert course.wait(1000) == []
    assert course.tell(Promote()) == [Offer(WAVES[1])]
    assert course.state.phase == "offering"


def test_those_who_are_there_are_waited_for_until_the_deadline() -> None:
    course = Course()
    course.take("abc")
    assert course.wait(99) == []
    (stopped,) = course.wait(1)
    assert stopped == Stopped("3 of 4 devices took it, 80% are asked for")


def test_the_last_wave_does_not_wait_for_the_absent() -> None:
    course = Course(state=replace(START, waves=(WAVES[0],)))
    course.take("a")
    course.wait(20, frozenset("a"))
    assert course.wait(10, frozenset("a")) == [Finished()]


def test_by_hand_it_stops_after_the_canaries_only() -> None:
    course = Course(replace(RULES, automatic=False))
    course.take("abcd")
    assert course.wait(10) == [Stopped("the canaries do well; `models promote` goes on")]
    course.tell(Promote())
    course.take("ef")
    assert course.wait(10) == [Offer(WAVES[2])]


def test_promoting_to_everyone_is_one_wave() -> None:
    course = Course()
    assert course.tell(Promote(everyone=True)) == [Offer(tuple("efghij"))]
    assert course.state.last
    assert course.tell(Promote()) == [Finished()]


def test_a_device_that_is_gone_is_in_no_share() -> None:
    course = Course()
    course.take("abc")
    course.tell(Gone("d"))  # 3 of 4 would have been too few, and d waited for to the deadline
    assert course.state.phase == "observing"
    assert course.wait(10) == [Offer(WAVES[1])]
    assert course.tell(Added("d")) == []  # it is back: a new device, of the last wave
    assert course.state.waves == (("a", "b", "c"), ("e", "f"), ("g", "h", "i", "j", "d"))


def test_a_device_that_is_back_has_to_say_anew_how_it_does() -> None:
    course = Course(state=replace(START, waves=(("a",), ("b", "c")), wave=1))
    course.take("a")
    course.tell(Taken("b"), Heard("b"), Gone("b"), Added("b"), Taken("b"))
    assert course.state.heard == ("a",)
    course.tell(Heard("b"))
    assert course.state.heard == ("a", "b")


def test_what_a_revoked_device_said_does_not_count() -> None:
    course = Course()
    assert course.tell(Failed("a", "x"), Gone("a"), Failed("b", "x")) != []  # 1 of 3 is more than 0.25
    assert course.state.reason == "1 of 3 devices failed at the canaries; b: x"


def test_a_pause_is_a_pause_and_an_abort_is_the_end() -> None:
    course = Course()
    assert course.tell(Pause(), Pause()) == [Stopped("somebody paused it")]
    assert course.take("abcd") == []
    assert course.wait(1000) == []
    assert course.tell(Abort("somebody said so")) == [TakeBack(WAVES[0], "somebody said so")]


def test_failures_in_a_pause_still_take_it_back() -> None:
    course = Course()
    course.tell(Pause())
    (back,) = course.tell(Failed("a", "x"), Failed("b", "x"))
    assert isinstance(back, TakeBack)


def test_a_new_device_joins_the_last_wave() -> None:
    course = Course()
    assert course.tell(Added("new"), Added("new"), Added("a")) == []
    assert course.state.waves[-1] == ("g", "h", "i", "j", "new")
    late = Course(state=replace(START, wave=2))
    assert late.tell(Added("new")) == [Offer(("new",))]


def test_without_observation_decisions_alone_move_it() -> None:
    course = Course(replace(RULES, observe_s=0.0))
    assert course.take("abcd") == [Offer(WAVES[1])]
    assert course.take("ef") == [Offer(WAVES[2])]
    assert course.take("ghij") == [Finished()]


def test_a_device_that_was_not_offered_says_nothing() -> None:
    course = Course(replace(RULES, max_failed=0.0))
    assert course.tell(Failed("g", "x"), Taken("h")) == []
    assert (course.state.taken, course.state.failed) == ({}, {})


def test_its_state_survives_the_ledger() -> None:
    course = Course()
    course.take("ab")
    course.tell(Failed("c", "slow"))
    assert loads(RolloutState, dumps(course.state), max_bytes=1 << 20) == course.state


names = st.sampled_from(sorted(EVERYONE | {"stranger"}))
events = st.one_of(
    st.builds(Taken, names),
    st.builds(Heard, names),
    st.builds(Failed, names, st.just("x")),
    st.builds(Tick, st.frozensets(names)),
    st.builds(Added, names),
    st.builds(Gone, names),
    st.builds(Promote, st.booleans()),
    st.just(Pause()),
)


@given(st.lists(st.tuples(events, st.floats(0, 60)), max_size=40))
def test_whatever_happens_nobody_is_offered_twice_and_a_rollback_reaches_all_who_were(
    course: list[tuple[Event, float]],
) -> None:
    run, offered, sent_back = Course(), list(WAVES[0]), list[str]()
    for event, after in course:
        if isinstance(event, Gone) and not run.state.over:  # may come back as a new device
            offered = [name for name in offered if name != event.device]
            sent_back = [name for name in sent_back if name != event.device]
        for command in run.tell(event, after=after):
            if isinstance(command, Offer):
                offered += command.devices
            elif isinstance(command, SendBack):
                sent_back.append(command.device)
            elif isinstance(command, TakeBack):
                assert set(command.devices) == set(offered)
    assert len(offered) == len(set(offered))
    assert set(offered) <= set(run.state.offered)
    assert len(sent_back) == len(set(sent_back)) and set(sent_back) <= set(run.state.failed)
    assert not set(run.state.taken) & set(run.state.failed)
    if run.state.phase not in ("rolled-back", "complete"):
        assert len(run.state.failed) <= RULES.max_failed * len(run.state.offered)


# ---- who gets it when ----


def test_shares_grow_and_nobody_is_left_out() -> None:
    fleet = [f"pi-{number}" for number in range(40)]
    waves = plan_waves(3, fleet, "5%", (25.0,))
    assert [len(wave) for wave in waves] == [2, 8, 30]
    assert sorted(name for wave in waves for name in wave) == sorted(fleet)
    assert waves == plan_waves(3, fleet[::-1], "5%", (25.0,))
    assert waves[0] != plan_waves(4, fleet, "5%", (25.0,))[0]  # another version tries others


@pytest.mark.parametrize(("sizes", "words"), [((4,), "4 devices"), ((1, 3, 16), "1 device, then 3, then 16")])
def test_waves_in_words(sizes: tuple[int, ...], words: str) -> None:
    assert waves_text([("pi",) * size for size in sizes]) == words


def test_canaries_by_name_and_those_who_are_there_first() -> None:
    assert plan_waves(1, ["a", "b", "c"], "c, a", ())[0] in (("a", "c"), ("c", "a"))
    assert plan_waves(1, list("abcdef"), "2", (), online={"e", "b"})[0] in (("e", "b"), ("b", "e"))


def test_a_fleet_of_one_has_one_wave() -> None:
    assert plan_waves(1, ["a"], "5%", (25.0,)) == (("a",),)


@pytest.mark.parametrize(
    ("text", "wanted"), [("5%", 1), ("10 %", 2), ("12.5%", 3), ("100%", 20), ("3", 3), ("0", 1)]
)
def test_canaries_by_share_and_number(text: str, wanted: int) -> None:
    assert parse_canary(text, [f"pi-{number}" for number in range(20)]) == wanted


@pytest.mark.parametrize("text", ["pi-99", "a b", "", "-1", "5%%"])
def test_other_canaries_are_refused(text: str) -> None:
    with pytest.raises(RolloutError, match="canary"):
        parse_canary(text, ["pi-1"])


def test_without_devices_there_is_no_rollout() -> None:
    with pytest.raises(RolloutError, match="no device may get the model"):
        plan_waves(1, [], "5%", ())
