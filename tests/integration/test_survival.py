"""Killing things in the middle of a round: the run finishes, nothing is counted twice, the report says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_server.broker.installed import find_mosquitto
from tests.integration.fleet import ROUNDS, RealFleet, real_fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


KINDS = [
    "embedded",
    pytest.param("mosquitto", marks=pytest.mark.mosquitto),
    pytest.param("external", marks=pytest.mark.mosquitto),
]


@pytest.fixture(params=KINDS)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealFleet]:
    if request.param != "embedded" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with real_fleet(tmp_path, request.param) as fleet:
        yield fleet


def check_finished(fleet: RealFleet) -> dict[str, Any]:
    """Every round is there once, each device counted at most once a round, and the model is good."""
    fleet.wait(fleet.finished, "the run to finish")
    report = fleet.report()
    assert [entry["round"] for entry in report["rounds"]] == list(range(1, ROUNDS + 1))
    doubles = fleet.query(
        "SELECT stage, device, count(*) FROM results GROUP BY stage, device HAVING count(*) > 1"
    )
    assert doubles == []
    assert report["final"]["accuracy"] > 0.9
    return report


def said(report: dict[str, Any], *words: str) -> bool:
    return any(all(word in f"{i['who']} {i['what']}" for word in words) for i in report["incidents"])


def test_undisturbed_it_finishes_without_incident(fleet: RealFleet) -> None:
    fleet.start_all()
    report = check_finished(fleet)
    assert report["incidents"] == []
    assert all(set(entry["clients"]) == set(fleet.names) for entry in report["rounds"])
    assert all(client["model_version"] == 1 for client in report["clients"])
    assert not any(client["imports_tensorflow"] for client in report["clients"])


def test_a_client_killed_in_a_round_is_left_out_and_comes_back(fleet: RealFleet) -> None:
    victim = fleet.names[0]
    fleet.start_all()
    fleet.wait(lambda: fleet.round_has_begun(2), "round 2")
    fleet.kill(victim)
    fleet.wait(lambda: fleet.round_has_begun(3), "round 3 without the victim")
    fleet.start_client(victim)
    report = check_finished(fleet)
    assert said(report, victim)
    dropped = [entry["round"] for entry in report["rounds"] if victim in entry["dropped"]]
    assert dropped == [2]


def test_a_client_killed_and_back_in_time_still_counts(fleet: RealFleet) -> None:
    victim = fleet.names[1]
    fleet.start_all()
    fleet.wait(lambda: fleet.round_has_begun(2), "round 2")
    fleet.kill(victim)
    fleet.start_client(victim)
    report = check_finished(fleet)
    assert all(set(entry["clients"]) == set(fleet.names) for entry in report["rounds"])
    assert said(report, victim, "left")


def test_the_broker_killed_in_a_round_and_started_again(fleet: RealFleet) -> None:
    fleet.start_all()
    fleet.wait(lambda: fleet.round_has_begun(2), "round 2")
    fleet.kill_broker()
    report = check_finished(fleet)
    assert said(report, "broker")


def test_the_server_killed_in_a_round_goes_on_where_it_was(fleet: RealFleet) -> None:
    fleet.start_all()
    fleet.wait(lambda: len(fleet.results_of_round(2)) >= 1, "a result of round 2")
    fleet.kill("server")
    before = set(fleet.results_of_round(2))
    fleet.start_server()
    report = check_finished(fleet)
    assert said(report, "server", "stopped in round 2")
    counted = set(report["rounds"][1]["clients"])
    assert before <= counted  # what was accepted before the kill is not lost
