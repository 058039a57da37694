"""``bramble-server status``, ``rounds`` and ``devices`` on a ledger whose content is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker_server.cli import main
from broker_server.cohort import Selection
from broker_server.config import load_config
from broker_server.records import ClientRecord, RoundRecord
from broker_server.store.ledger import Ledger
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.presence import Health, Hello
from edge_client.wire.rounds import Task
from edge_client.wire.summary import DataSummary


def hello(yes: int) -> Hello:
    return Hello(
        session="0" * 16,
        version="0.1.0",
        architecture="aarch64",
        board="Raspberry Pi 4 Model B",
        python="3.13",
        runtime="ai-edge-litert 2.3.0",
        cores=4,
        memory_mb=1900.0,
        data=DataSummary(kind="image", counts={"no": 3, "yes": yes}, validation_examples=1, skipped=0),
        health=Health(60.0, 900.0, 10_000.0, temperature_c=51.0),
    )


def part(examples: int) -> ClientRecord:
    return ClientRecord(examples=examples, loss=0.25, seconds=2.0, bytes_up=1500, bytes_down=2500)


@pytest.fixture
def fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Two devices, one round that asked one of them, an incident, and a task at work."""
    assert main(["init", str(tmp_path / "ward"), "--rounds", "3"]) == 0
    settings = tmp_path / "ward" / "server.toml"
    ledger = Ledger(Path(load_config(settings).state) / "ledger.sqlite")
    ledger.keep_hello("pi-1", hello(5), now=1000.0)
    ledger.keep_hello("pi-2", hello(9), now=2000.0)
    record = RoundRecord(
        round=1,
        version=1,
        started=1000.0,
        seconds=4.0,
        clients={"pi-1": part(8)},
        dropped={},
        dropped_bytes_down=100,
        selection=Selection("random", {"pi-1": "drawn"}, {"pi-2": "not drawn"}),
        codec_up="small",
        codec_down="small",
        evaluation=EvaluationSums(3.0, (5, 1, 0, 4)),
    )
    ledger.keep_round(1, record)
    ledger.note(1500.0, "pi-2", "went away", "the round went on")
    ledger.set_fact("stages_closed", "1")
    ledger.keep_task(Task(fleet="ward", run="0" * 16, number=77, kind="idle"), 1, 1600.0)
    ledger.close()
    capsys.readouterr()
    return ["--config", str(settings)]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_status(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "status", *fleet)
    assert (found["server"], found["devices"], found["rounds"]) == ("stopped", 2, 1)
    assert (found["rounds_planned"], found["stage"], found["task"]) == (3, "train", 77)
    assert found["accuracy"] == pytest.approx(0.9)
    assert main(["status", *fleet]) == 0
    text = capsys.readouterr().out
    assert "1 of 3 rounds" in text and "task 77" in text and "pi-2: went away" in text


def test_a_server_at_work_does_not_mind(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(Path(load_config(Path(fleet[1])).state) / "ledger.sqlite")
    try:
        assert answer(capsys, "status", *fleet)["server"] == "running"
    finally:
        ledger.close()


def test_rounds(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    [found] = answer(capsys, "rounds", *fleet)
    assert (found["clients"], found["examples"], found["bytes_up"], found["bytes_down"]) == (1, 8, 1500, 2600)
    assert found["evaluated"] == "held-out" and found["codec_up"] == "small"
    assert main(["rounds", *fleet]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == ["1", "1", "0", "8", "0.900"]


def test_one_round_says_who_was_asked_and_why(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "rounds", "1", *fleet)
    assert found["rule"] == "random" and found["passed"] == {"pi-2": "not drawn"}
    assert found["parts"]["pi-1"]["seconds"] == 2.0
    assert main(["rounds", "1", *fleet]) == 0
    text = capsys.readouterr().out
    assert "drawn" in text and "pi-2: not asked, not drawn" in text
    assert main(["rounds", "9", *fleet]) == 1
    assert "there is no round 9; 1 are done" in capsys.readouterr().err


def test_devices(fleet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = answer(capsys, "devices", *fleet)
    assert (first["device"], first["rounds"], first["examples"]) == ("pi-1", 1, 8)
    assert (second["rounds"], second["last_hello"], second["temperature_c"]) == (0, 2000.0, 51.0)
    assert main(["devices", *fleet]) == 0
    assert "1.9 GB" in capsys.readouterr().out


def test_before_the_first_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "ward")]) == 0
    capsys.readouterr()
    assert main(["status", "--config", str(tmp_path / "ward" / "server.toml")]) == 1
    assert "has not run yet" in capsys.readouterr().err
