"""The round machine: decisions known by hand, and invariants over any course of events."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_server.rounds.machine import (
    Closed,
    CloseStage,
    Command,
    Event,
    FailRun,
    FinishRun,
    Joined,
    Left,
    Reported,
    RetryStage,
    Rules,
    RunState,
    Skipped,
    Stage,
    Started,
    StartStage,
    Tick,
    step,
    steps,
)

RULES = Rules(quorum=2, wait_for=3, wait_s=60.0, deadline_s=100.0, grace_s=10.0)
STAGES = (Stage("train", 1), Stage("train", 2), Stage("evaluate", 2))


class Course:
    """Feeds events at given times and keeps the commands."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.rules = rules
        self.state = RunState(STAGES)
        self.commands: list[Command] = []

    def feed(self, now: float, *events: Event) -> list[Command]:
        new: list[Command] = []
        for event in events:
            self.state, commands = step(self.state, event, self.rules, now)
            new += commands
        self.commands += new
        return new

    def working(self, *devices: str, number: int = 7) -> Course:
        self.feed(0.0, *[Joined(device) for device in devices])
        if not self.commands:
            self.feed(self.rules.wait_s, Tick())
        self.feed(0.0, Started(number))
        return self


def test_a_run_waits_for_the_devices_it_was_told_to_expect() -> None:
    course = Course()
    assert course.feed(0.0, Joined("a"), Joined("b")) == []
    assert course.feed(1.0, Joined("c")) == [StartStage(STAGES[0], ("a", "b", "c"))]


def test_after_the_waiting_time_the_quorum_is_enough() -> None:
    course = Course()
    course.feed(0.0, Joined("a"), Joined("b"))
    assert course.feed(59.0, Tick()) == []
    assert course.feed(60.0, Tick()) == [StartStage(STAGES[0], ("a", "b"))]


def test_without_a_quorum_nothing_starts_however_long_it_takes() -> None:
    course = Course()
    course.feed(0.0, Joined("a"))
    assert course.feed(1e6, Tick()) == []


def test_a_stage_closes_when_all_have_reported_and_the_next_begins() -> None:
    course = Course().working("a", "b", "c")
    assert course.feed(1.0, Reported("a"), Reported("b")) == []
    closing = course.feed(2.0, Reported("c"))
    assert closing == [CloseStage(STAGES[0], 7, ("a", "b", "c"), {})]
    assert course.feed(3.0, Closed()) == [StartStage(STAGES[1], ("a", "b", "c"))]


def test_a_device_that_stays_away_is_dropped_after_the_grace() -> None:
    course = Course().working("a", "b", "c")
    course.feed(1.0, Reported("a"), Reported("b"), Left("c"))
    assert course.feed(10.9, Tick()) == []
    assert course.feed(11.0, Tick()) == [CloseStage(STAGES[0], 7, ("a", "b"), {"c": "away"})]


def test_a_device_that_comes_back_is_waited_for() -> None:
    course = Course().working("a", "b", "c")
    course.feed(1.0, Reported("a"), Reported("b"), Left("c"))
    course.feed(5.0, Joined("c"))
    assert course.feed(50.0, Tick()) == []
    assert course.feed(51.0, Reported("c")) == [CloseStage(STAGES[0], 7, ("a", "b", "c"), {})]


def test_the_deadline_drops_stragglers() -> None:
    course = Course().working("a", "b", "c")
    course.feed(1.0, Reported("a"), Reported("b"))
    assert course.feed(100.0, Tick()) == [CloseStage(STAGES[0], 7, ("a", "b"), {"c": "late"})]


def test_failures_do_not_hold_a_stage_up() -> None:
    course = Course().working("a", "b", "c")
    closing = course.feed(1.0, Reported("a"), Reported("b"), Reported("c", "diverged"))
    assert closing == [CloseStage(STAGES[0], 7, ("a", "b"), {"c": "diverged"})]


def test_below_the_quorum_a_stage_is_tried_again_and_keeps_what_it_accepted() -> None:
    course = Course().working("a", "b", "c")
    course.feed(1.0, Reported("a"))
    retry = course.feed(100.0, Tick())
    assert isinstance(retry[0], RetryStage)
    assert course.feed(101.0, Tick()) == []  # a pause first
    assert course.feed(105.0, Tick()) == [StartStage(STAGES[0], ("b", "c"))]  # a has reported
    course.feed(105.0, Started(8))
    closing = course.feed(106.0, Reported("b"), Reported("c"))
    assert closing == [CloseStage(STAGES[0], 8, ("a", "b", "c"), {})]


def test_a_result_that_comes_between_two_tries_counts() -> None:
    course = Course().working("a", "b", "c")
    course.feed(1.0, Left("a"), Left("b"), Left("c"))
    assert isinstance(course.feed(11.0, Tick())[0], RetryStage)
    closing = course.feed(12.0, Reported("a"), Reported("b"))
    assert closing == [CloseStage(STAGES[0], 7, ("a", "b"), {})]  # enough, and nobody left to ask


def test_a_stage_that_fails_again_and_again_is_given_up_not_hammered() -> None:
    course, now, times = Course(replace(RULES, max_tries=4)), 0.0, []
    course.working("a", "b", "c")
    while course.state.phase != "finished" and now < 1e4:
        commands = course.feed(now, Tick())
        if course.state.phase == "starting":
            course.feed(now, Started(1))
        if course.state.phase == "working":
            commands += course.feed(now, *[Reported(device, "diverged") for device in "abc"])
        times += [now for command in commands if isinstance(command, RetryStage)]
        if any(isinstance(command, FailRun) for command in commands):
            break
        now += 1.0
    assert len(times) == 3
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps) and gaps[0] >= RULES.retry_s
    (failure,) = [command for command in course.commands if isinstance(command, FailRun)]
    assert "diverged" in failure.reason


def test_a_deadline_that_was_too_short_gets_longer() -> None:
    course = Course().working("a", "b", "c")
    course.feed(100.0, Tick())
    course.feed(105.0, Tick(), Started(8))
    assert course.feed(205.0, Tick()) == []
    assert isinstance(course.feed(305.0, Tick())[0], RetryStage)


def test_without_grace_a_device_that_is_there_is_still_waited_for() -> None:
    course = Course(replace(RULES, grace_s=0.0)).working("a", "b", "c")
    assert course.feed(1.0, Tick()) == []


def test_strangers_failures_do_not_count() -> None:
    course = Course().working("a", "b", "c")
    course.feed(1.0, Reported("x", "broken"))
    assert course.state.failed == {}


def test_a_run_finishes_once() -> None:
    course = Course().working("a", "b", "c")
    for number in (7, 8, 9):
        course.feed(1.0, *[Reported(device) for device in "abc"])
        course.feed(1.0, Closed(), Started(number + 1))
    assert course.state.phase == "finished"
    assert [c for c in course.commands if isinstance(c, FinishRun)] == [FinishRun()]
    assert course.feed(2.0, Tick(), Joined("d")) == []


def test_a_restarted_server_gives_the_cohort_time_to_come_back() -> None:
    state = replace(
        RunState(STAGES),
        phase="working",
        number=7,
        since=1000.0,
        cohort=frozenset("abc"),
        reported=frozenset("ab"),
        away_since={"c": 1000.0},
    )
    assert step(state, Tick(), RULES, 1009.0)[1] == ()
    assert step(state, Tick(), RULES, 1010.0)[1] == (CloseStage(STAGES[0], 7, ("a", "b"), {"c": "away"}),)


# ---- enough results, and rounds that overlap ----

OVER = replace(RULES, enough=2)
BUFFER = replace(OVER, overlapping=True)


def test_enough_results_end_a_round_and_the_rest_is_told_to_stop() -> None:
    course = Course(OVER).working("a", "b", "c")
    assert course.feed(1.0, Reported("a")) == []
    closing = course.feed(2.0, Reported("b"))
    assert closing == [CloseStage(STAGES[0], 7, ("a", "b"), {}, released=("c",))]
    assert course.feed(2.0, Reported("c")) == []  # too late, and nobody's fault
    assert course.feed(3.0, Closed()) == [StartStage(STAGES[1], ("a", "b", "c"))]


def test_fewer_than_the_quorum_are_never_enough() -> None:
    course = Course(replace(OVER, enough=1)).working("a", "b", "c")
    assert course.feed(1.0, Reported("a")) == []
    assert course.feed(1.0, Reported("b")) != []


def test_results_that_became_durable_together_are_counted_together() -> None:
    course = Course(OVER).working("a", "b", "c")
    course.feed(1.0, Reported("a"))
    _, commands = steps(course.state, [Reported("b"), Reported("c")], OVER, 2.0)
    assert commands == (CloseStage(STAGES[0], 7, ("a", "b", "c"), {}),)


def test_an_evaluation_waits_for_all() -> None:
    course = Course(OVER)
    course.state = replace(course.state, index=2, online=frozenset("abc"))
    course.feed(0.0, Tick(), Started(9))
    assert course.feed(1.0, Reported("a"), Reported("b")) == []
    assert course.feed(1.0, Reported("c")) == [CloseStage(STAGES[2], 9, ("a", "b", "c"), {})]


def test_only_those_who_were_selected_are_waited_for() -> None:
    course = Course()
    course.feed(0.0, *[Joined(name) for name in "abc"])
    course.feed(0.0, Started(7, ("a", "c")))
    assert course.state.cohort == {"a", "c"}
    closing = course.feed(1.0, Reported("a"), Reported("c"))
    assert closing == [CloseStage(STAGES[0], 7, ("a", "c"), {})]


def test_where_rounds_overlap_nobody_is_dropped_for_being_slow() -> None:
    course = Course(BUFFER).working("a", "b", "c")
    closing = course.feed(1.0, Reported("a"), Reported("b"))
    assert closing == [CloseStage(STAGES[0], 7, ("a", "b"), {}, released=("c",))]
    course.feed(1.0, Closed(), Started(8))
    closing = course.feed(2.0, Reported("c"), Reported("a"))  # c's is of the stage before
    assert closing == [CloseStage(STAGES[1], 8, ("a", "c"), {}, released=("b",))]


def test_where_rounds_overlap_the_deadline_takes_what_is_there() -> None:
    course = Course(replace(BUFFER, enough=3)).working("a", "b", "c")
    course.feed(1.0, Reported("a"), Reported("b"))
    assert course.feed(100.0, Tick()) == [CloseStage(STAGES[0], 7, ("a", "b"), {}, released=("c",))]


def test_late_results_that_come_between_two_tries_can_be_enough() -> None:
    course = Course(replace(BUFFER, wait_for=9)).working("a", "b", "c")
    assert isinstance(course.feed(200.0, Tick())[0], RetryStage)
    assert course.feed(201.0, Reported("a")) == []  # waits for more devices to come
    assert course.feed(202.0, Reported("b")) == [CloseStage(STAGES[0], 7, ("a", "b"), {})]


names = st.sampled_from("abcd")
events = st.one_of(
    st.builds(Joined, names),
    st.builds(Left, names),
    st.builds(Reported, names, st.none() | st.just("broken")),
    st.just(Tick()),
)


@given(
    course=st.lists(st.tuples(st.floats(0, 30), events), max_size=60),
    quorum=st.integers(1, 3),
    enough=st.none() | st.integers(1, 4),
    overlapping=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_whatever_happens_no_result_is_lost_or_counted_twice(
    course: list[tuple[float, Event]], quorum: int, enough: int | None, overlapping: bool
) -> None:
    rules = replace(RULES, quorum=quorum, enough=enough, overlapping=overlapping)
    state, now, number = RunState(STAGES), 0.0, 0
    accepted: set[tuple[int, str]] = set()
    closed: list[tuple[int, str]] = []
    for wait, event in course:
        now += wait
        if isinstance(event, Reported) and event.problem is None and state.phase != "finished":
            accepted.add((state.index, event.device))
        pending = [event]
        while pending:
            state, commands = step(state, pending.pop(0), rules, now)
            for command in commands:
                if isinstance(command, StartStage):
                    assert command.cohort, "a task for nobody"
                    number += 1
                    pending.append(Started(number))
                elif isinstance(command, CloseStage):
                    assert len(command.devices) >= quorum
                    assert not set(command.devices) & (set(command.dropped) | set(command.released))
                    closed += [(state.index, device) for device in command.devices]
                    pending.append(Closed())
    assert len(closed) == len(set(closed))
    finished = {entry for entry in accepted if entry[0] < state.index}
    assert finished == set(closed)


answers = st.sampled_from(["result", "failure", "silence", "leaves"])


@given(
    drawn=st.lists(st.tuples(names, answers), max_size=40),
    quorum=st.integers(1, 3),
    enough=st.none() | st.integers(1, 4),
    overlapping=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_a_run_always_ends(
    drawn: list[tuple[str, str]], quorum: int, enough: int | None, overlapping: bool
) -> None:
    """Whatever devices do for a while: with those who are there then, it finishes or says why it cannot."""
    rules = replace(RULES, quorum=quorum, enough=enough, overlapping=overlapping)
    state, now, number, ended = RunState(STAGES), 0.0, 0, False
    script = list(drawn)
    waiting: list[Event] = [Joined(name) for name in "abcd"]
    for _ in range(2000):
        if ended:
            break
        now += 1.0
        if state.phase == "working" and state.outstanding:
            name, answer = script.pop(0) if script else (min(state.outstanding), "result")
            waiting += {
                "result": [Joined(name), Reported(name)],
                "failure": [Reported(name, "diverged")],
                "silence": [],
                "leaves": [Left(name)],
            }[answer]
        else:
            script = script[1:]
            waiting += [Joined(name) for name in "abcd"] if not script else []
        waiting.append(Tick())
        while waiting and not ended:
            state, commands = step(state, waiting.pop(0), rules, now)
            for command in commands:
                number += 1
                if isinstance(command, StartStage):
                    waiting.insert(0, Started(number))
                elif isinstance(command, CloseStage):
                    waiting.insert(0, Closed())
                ended = ended or isinstance(command, FinishRun | FailRun)
    assert ended


@pytest.mark.parametrize("phase", ["starting", "closing"])
def test_while_the_server_is_at_work_time_changes_nothing(phase: str) -> None:
    state = replace(RunState(STAGES), phase=phase, cohort=frozenset("ab"))
    assert step(state, Tick(), RULES, 1e9) == (state, ())


# ---- a stage that a run can do without ----

CALIBRATE = (Stage("evaluate", 2), Stage("calibrate", 2))


def calibrating(*devices: str) -> Course:
    """At the beginning of the second stage of two, with these devices online."""
    course = Course()
    course.state = RunState(CALIBRATE)
    course.working(*devices)
    course.feed(1.0, *[Reported(device) for device in devices])
    course.feed(1.0, Closed())
    return course


def test_a_stage_that_a_run_can_do_without_is_closed_with_too_few_after_two_tries() -> None:
    course = calibrating("a", "b", "c")
    course.feed(1.0, Started(8))
    failures = [Reported(device, "too little memory") for device in ("b", "c")]
    assert course.feed(2.0, Reported("a"), *failures) == [
        RetryStage(CALIBRATE[1], 8, "1 of the 2 results needed (too little memory)")
    ]
    (start,) = course.feed(2.0 + RULES.retry_s, Tick())
    assert start == StartStage(CALIBRATE[1], ("b", "c"))
    course.feed(8.0, Started(9))
    why = {"b": "too little memory", "c": "too little memory"}
    assert course.feed(9.0, *failures) == [CloseStage(CALIBRATE[1], 9, ("a",), why)]
    assert course.feed(9.0, Closed()) == [FinishRun()]


def test_such_a_stage_does_not_wait_for_ever_for_its_quorum() -> None:
    course = Course()
    course.state = RunState(CALIBRATE, index=1)
    assert course.feed(59.0, Joined("a"), Tick()) == []
    assert course.feed(60.0, Tick()) == [CloseStage(CALIBRATE[1], 0, (), {})]


def test_such_a_stage_whose_task_cannot_be_made_is_closed_empty() -> None:
    course = calibrating("a", "b", "c")
    assert course.commands[-1] == StartStage(CALIBRATE[1], ("a", "b", "c"))
    assert course.feed(2.0, Skipped()) == [CloseStage(CALIBRATE[1], 7, (), {})]
    assert course.feed(2.0, Skipped()) == []  # nothing to skip any more
