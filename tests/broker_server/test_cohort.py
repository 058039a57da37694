"""Who is asked, and why: choices known by hand, and what must hold for every rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_server.cohort.at_random import AtRandom
from broker_server.cohort.base import Candidate, Cohort, Selection
from broker_server.cohort.everyone import Everyone
from broker_server.cohort.history import Tracks, after_round, candidates
from broker_server.cohort.oort import Oort
from broker_server.cohort.resources import ByResources, reliability, speed
from broker_server.cohort.round_robin import RoundRobin
from broker_server.records import ClientRecord, RoundRecord
from edge_client.wire.presence import Health, Hello
from edge_client.wire.summary import DataSummary

FIT = Candidate("a", examples=100, cores=4, free_memory_mb=500.0)


def fleet(count: int = 8, **changes: object) -> list[Candidate]:
    return [replace(FIT, name=f"pi-{number}", **changes) for number in range(count)]  # type: ignore[arg-type]


def choose(rule: Cohort, them: list[Candidate], round_number: int = 1, seed: int = 0) -> Selection:
    return rule.select(them, round_number, np.random.default_rng([seed, round_number]))


# ---- how many ----


def test_over_selection_asks_for_more_than_are_needed() -> None:
    assert AtRandom(size=10, over_select=1.3).count(100) == 13
    assert AtRandom(size=3, over_select=1.3).count(100) == 4
    assert AtRandom(size=10, over_select=1.3).count(8) == 8
    assert AtRandom(size=10).count(100, already=7) == 3
    assert AtRandom(size=2).count(100, already=2) == 1  # a stage that waits for a quorum asks somebody
    assert AtRandom().count(100) == 100
    assert Everyone(size=2).count(100) == 100


# ---- by hand ----


def test_everyone_is_asked() -> None:
    assert set(choose(Everyone(size=2), fleet(4)).chosen) == {"pi-0", "pi-1", "pi-2", "pi-3"}


def test_chance_is_fair_and_follows_the_seed() -> None:
    counted: Counter[str] = Counter()
    for round_number in range(1, 401):
        counted.update(list(choose(AtRandom(size=2), fleet(8), round_number).chosen))
    assert set(counted) == {f"pi-{n}" for n in range(8)}
    assert all(70 <= times <= 130 for times in counted.values())  # 100 expected, sigma 8.7
    assert choose(AtRandom(size=2), fleet(), 5) == choose(AtRandom(size=2), fleet()[::-1], 5)
    assert choose(AtRandom(size=2), fleet(), 5, seed=1) != choose(AtRandom(size=2), fleet(), 5, seed=2)


def test_in_turn_the_longest_waiting_come_first() -> None:
    them = [
        replace(FIT, name="new", waited=4),
        replace(FIT, name="long", asked=1, waited=3),
        replace(FIT, name="short", asked=1, waited=0),
    ]
    selection = choose(RoundRobin(size=2), them, 5)
    assert selection.chosen == {"new": "its turn: never asked so far", "long": "its turn: waited 3 rounds"}
    assert selection.passed == {"short": "not its turn: waited 0 rounds"}


def test_in_turn_a_slow_device_that_is_told_to_stop_each_time_has_had_its_turn() -> None:
    tracks = after_round({}, record(1, clients={"pi-1": part(10.0, 0.9)}, released=("pi-2",)))
    names = ("pi-1", "pi-2", "pi-3")
    known = candidates(names, dict.fromkeys(names, hello()), tracks, round_number=2, max_examples=1000)
    assert choose(RoundRobin(size=1), known, 2).chosen == {"pi-3": "its turn: never asked so far"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"throttled": True}, "throttled"),
        ({"temperature_c": 82.0}, "82 C hot"),
        ({"on_mains": False}, "on battery"),
        ({"free_memory_mb": 20.0}, "20 MB free"),
    ],
)
def test_a_device_that_should_be_spared_is_asked_for_want_of_others(
    change: dict[str, object], why: str
) -> None:
    poor = replace(FIT, name="poor", **change)  # type: ignore[arg-type]
    others = fleet(2, temperature_c=50.0, throttled=False, on_mains=True)
    assert choose(ByResources(size=2), [poor, *others]).passed == {"poor": why}
    assert choose(ByResources(size=3), [poor, *others]).chosen["poor"] == f"for want of others: {why}"


def test_the_reliable_and_the_fast_come_first() -> None:
    them = [
        replace(FIT, name="quits", asked=9, counted=4, seconds=10.0),
        replace(FIT, name="slow", asked=9, counted=9, seconds=40.0),
        replace(FIT, name="good", asked=9, counted=9, seconds=10.0),
    ]
    assert reliability(them[0]) == 0.5 and reliability(them[2]) == 1.0
    assert speed(them[1], them) == 0.25
    selection = choose(ByResources(size=1), them)
    assert selection.chosen == {"good": "score 1.00: 9 of 9 rounds kept, speed 1.00"}
    assert list(selection.passed) == ["quits", "slow"]


def test_before_it_has_trained_a_device_is_as_fast_as_it_has_cores() -> None:
    them = [replace(FIT, name="zero", cores=1), replace(FIT, name="five", cores=4)]
    assert (speed(them[0], them), speed(them[1], them)) == (0.25, 1.0)


@pytest.mark.parametrize("rule", [ByResources(size=1, at_least_every=5), Oort(size=1, at_least_every=5)])
def test_nobody_waits_for_ever(rule: Cohort) -> None:
    best = replace(FIT, name="best", asked=9, counted=9, seconds=1.0, loss=9.0, loss_round=9)
    worst = replace(best, name="worst", counted=1, seconds=99.0, loss=0.1, waited=5, examples=1)
    assert list(choose(rule, [best, replace(worst, waited=4)], 10).chosen) == ["best"]
    selection = choose(rule, [best, worst], 10)
    assert selection.chosen == {"worst": "fairness floor: not asked for 5 rounds, at most 5"}


def test_oort_prefers_what_the_model_is_bad_at() -> None:
    """Utilities by hand: examples times loss 100 and 10, scaled to 1 and 0; both heard of in round 3."""
    them = [
        replace(FIT, name="bad", asked=3, counted=3, seconds=10.0, loss=1.0, loss_round=3),
        replace(FIT, name="good", asked=3, counted=3, seconds=10.0, loss=0.1, loss_round=3),
    ]
    bonus = (0.1 * np.log(4) / 3) ** 0.5
    worth = Oort().utilities(them, 4)
    assert worth["good"] == pytest.approx(bonus)
    assert worth["bad"] == pytest.approx(1 + bonus)
    assert list(choose(Oort(size=1), them, 4).chosen) == ["bad"]


def test_oort_takes_less_of_the_slow() -> None:
    """Twice the preferred time with the paper's exponent 2: a quarter."""
    them = [
        replace(FIT, name=name, asked=1, counted=1, seconds=seconds, loss=1.0, loss_round=1)
        for name, seconds in (("a", 10.0), ("b", 10.0), ("c", 20.0))
    ]
    worth = Oort(preferred=0.5).utilities(them, 2)
    assert worth["c"] == pytest.approx(worth["a"] / 4)


def test_oort_tries_devices_that_never_took_part() -> None:
    known = [replace(one, asked=1, counted=1, seconds=1.0, loss=1.0, loss_round=1) for one in fleet(4)]
    new = [replace(FIT, name=f"new-{n}") for n in range(4)]
    selection = choose(Oort(size=4, explore=0.5, explore_decay=1.0), known + new, 2)
    tried = [name for name in selection.chosen if name.startswith("new")]
    assert len(tried) == 2
    assert selection.chosen[tried[0]] == "explored: it has never taken part"


# ---- what must hold ----

optional = st.none() | st.booleans()
devices = st.builds(
    Candidate,
    name=st.just("x"),
    examples=st.integers(1, 10_000),
    cores=st.integers(1, 64),
    free_memory_mb=st.floats(0, 1e5),
    temperature_c=st.none() | st.floats(-60, 200),
    throttled=optional,
    on_mains=optional,
    asked=st.integers(0, 50),
    counted=st.integers(0, 50),
    waited=st.integers(0, 50),
    seconds=st.none() | st.floats(0, 1e6),
    loss=st.none() | st.floats(-1e3, 1e12),
    loss_round=st.integers(0, 50),
)
RULES = (Everyone(), AtRandom(size=3), RoundRobin(size=3), ByResources(size=3), Oort(size=3, over_select=1.5))


@given(them=st.lists(devices, min_size=1, max_size=12), round_number=st.integers(1, 60))
@settings(max_examples=60)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.TAG)
def test_everyone_is_either_chosen_or_passed_with_a_reason(
    rule: Cohort, them: list[Candidate], round_number: int
) -> None:
    named = [replace(one, name=f"pi-{number}") for number, one in enumerate(them)]
    selection = choose(rule, named, round_number)
    assert len(selection.chosen) == rule.count(len(named))
    assert not set(selection.chosen) & set(selection.passed)
    assert set(selection.chosen) | set(selection.passed) == {one.name for one in named}
    assert selection == choose(rule, named[::-1], round_number)


# ---- what the rounds say ----

HEALTH = Health(peak_rss_mb=1.0, free_memory_mb=300.0, free_disk_mb=1.0, temperature_c=60.0)


def record(number: int, **parts: object) -> RoundRecord:
    return RoundRecord(
        round=number, version=number, started=0.0, seconds=1.0, **{"clients": {}, "dropped": {}, **parts}
    )  # type: ignore[arg-type]


def part(seconds: float, loss: float) -> ClientRecord:
    return ClientRecord(10, loss, seconds, 1, 1, replace(HEALTH, temperature_c=70.0))


def hello() -> Hello:
    data = DataSummary(kind="image", counts={"a": 50}, validation_examples=10)
    return Hello("0" * 16, "", "", "", "", "", 4, 1.0, data, HEALTH)


def test_the_history_of_a_device_is_read_from_the_rounds() -> None:
    tracks: Tracks = {}
    for one in (
        record(1, clients={"pi-1": part(10.0, 0.9), "pi-2": part(5.0, 0.8)}),
        record(2, clients={"pi-1": part(20.0, 0.5)}, dropped={"pi-2": "late"}),
        record(3, clients={"pi-1": part(30.0, 0.4)}, released=("pi-2",)),
        record(4, clients={}),
    ):
        tracks = after_round(tracks, one)
    names = ("pi-1", "pi-2", "pi-3")
    first, second, third = candidates(
        names, dict.fromkeys(names, hello()), tracks, round_number=5, max_examples=1000
    )
    assert (first.asked, first.counted, first.waited, first.seconds, first.loss) == (3, 3, 1, 20.0, 0.4)
    assert (first.temperature_c, third.temperature_c) == (70.0, 60.0)
    # told to stop when there were enough: asked, but no broken word
    assert (second.asked, second.counted, second.waited, second.loss_round) == (2, 1, 1, 1)
    assert (third.asked, third.waited, third.seconds, third.loss) == (0, 4, None, None)
    assert third.examples == 50
    # what the server measured counts, or a device that says it is quick would be in every cohort
    flattering = replace(part(0.01, 0.5), answered_s=40.0)
    [measured] = candidates(
        ["pi-1"],
        {"pi-1": hello()},
        after_round({}, record(1, clients={"pi-1": flattering})),
        round_number=2,
        max_examples=30,
    )
    assert measured.seconds == 40.0
    [capped] = candidates(["pi-1"], {"pi-1": hello()}, {}, round_number=1, max_examples=30)
    assert capped.examples == 30  # or a device that claims many would be in every cohort
