"""A fleet's benchmark with real processes: a broker, a server, three clients, one of which is killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from broker_server.broker.installed import find_mosquitto
from edge_client.runtime import runtime_name
from tests.benchmarks.tiny import tiny_model
from tests.integration.fleet import RealFleet, real_fleet

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto, pytest.mark.timeout(300)]
NOBODY_TRAINS = {"quorum": 4, "wait_for": 4, "wait_s": 3600.0}  # of three clients: the server waits for ever
QUICK = ["--within", "0.5", "--wait", "60", "--json"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFleet]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with real_fleet(tmp_path_factory.mktemp("fleet"), "external", grace_s=2.0, **NOBODY_TRAINS) as fleet:
        fleet.start_all()
        fleet.wait(lambda: len(fleet.query("SELECT 1 FROM devices")) == 3, "three devices to join")
        yield fleet


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.tflite")


def bench(fleet: RealFleet, *words: object) -> int:
    settings = str(fleet.folder / "server.toml")
    return main(["fleet-latency", *map(str, words), *QUICK, "--config", settings])


def rows_of(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.err == ""  # no lines of progress where there is no terminal
    return {row["device"]: row for row in json.loads(captured.out)["devices"]}


def kill_when_measuring(fleet: RealFleet, victim: str) -> None:
    def state() -> str:
        found = fleet.query("SELECT state FROM latency_devices WHERE device = ?", victim)
        return str(found[0][0]) if found else ""

    fleet.wait(lambda: state() == "measuring", f"{victim} to measure")
    fleet.kill(victim)


def test_who_is_killed_while_it_measures_is_named_and_the_others_answer(
    fleet: RealFleet, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim, *others = fleet.names
    killer = threading.Thread(target=kill_when_measuring, args=(fleet, victim))
    killer.start()
    assert bench(fleet, model, "--save", tmp_path / "saved.json") == 0
    killer.join()
    rows = rows_of(capsys)
    assert list(rows) == sorted(fleet.names)
    assert (rows[victim]["outcome"], rows[victim]["reason"]) == ("no answer", "it left while measuring")
    for row in (rows[device] for device in others):
        assert (row["outcome"], row["file"]) == ("measured", "tiny.tflite")
        assert 0 < row["timings"]["min_ms"] <= row["timings"]["p50_ms"] <= row["timings"]["p99_ms"]
        assert row["bytes"] == model.stat().st_size
        assert row["environment"]["cores"] >= 1 and row["cold_start"]["peak_rss_mb"] > 20
    assert list((fleet.folder / "state" / "measured").iterdir()) == []
    saved = str(tmp_path / "saved.json")
    assert main(["compare", saved, saved]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("tiny.tflite", runtime_name(), *others)) and victim not in said
    assert main(["report", saved]) == 0
    assert f"{others[0]}, tiny.tflite, {runtime_name()}" in capsys.readouterr().out


def test_without_a_file_it_is_the_active_model_and_who_has_none_says_so(
    fleet: RealFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    device = fleet.names[1]
    assert bench(fleet, "--devices", device) == 1
    [row] = rows_of(capsys).values()
    assert row["outcome"] == "refused" and "it has no model yet" in row["reason"]


def test_a_device_that_is_none_is_refused(
    fleet: RealFleet, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(fleet, model, "--devices", "pi-99") == 1
    assert "there is no device 'pi-99' in this fleet" in capsys.readouterr().err


def test_without_a_server_it_says_how_to_start_one_and_can_lead_the_fleet_itself(
    fleet: RealFleet, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = fleet.processes.pop("server")
    server.terminate()
    server.wait(30)
    assert bench(fleet, model) == 1
    assert "bramble-server run --config" in capsys.readouterr().err
    device = fleet.names[2]
    assert bench(fleet, model, "--lead", "--devices", device) == 0
    assert rows_of(capsys)[device]["outcome"] == "measured"
