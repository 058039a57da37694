"""``bramble-server``: help with examples, one clear line for what cannot be, nothing left half-made."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broker_server.cli import main
from broker_server.config import load_config


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str], status: int = 1) -> str:
    """Run a command that fails; its one line of error."""
    assert main(arguments) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)


def folder_with_one_class(at: Path) -> str:
    picture(at / "scans" / "only" / "a.png")
    return f"folder:{at / 'scans'}"


def empty_folder(at: Path) -> str:
    (at / "scans").mkdir()
    return f"folder:{at / 'scans'}"


def table_with_nan(at: Path) -> str:
    (at / "t.csv").write_text("a,b,label\n1,2,x\n3,nan,y\n4,5,x\n6,7,y\n")
    return f"table:{at / 't.csv'}"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (folder_with_one_class, ["one class only", "'only'"]),
        (empty_folder, ["no class folders"]),
        (table_with_nan, ["row 3", "column 'b'"]),
        (lambda at: f"folder:{at / 'nowhere'}", ["nowhere", "No such file"]),
        (lambda _: "nonsense", ["'nonsense'", "expected wisconsin"]),
    ],
)
def test_bad_data_is_one_line_and_leaves_nothing(
    make: object, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make(tmp_path)  # type: ignore[operator]
    error = error_of(capsys, ["demo", "--dataset", dataset, "--out", str(tmp_path / "out")])
    assert all(word in error for word in words), error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--codec", "nope"], ["'nope'", "safe"]),
        (["--broker", "nope"], ["'nope'", "embedded"]),
        (["--partition", "sizes:1,2", "--devices", "4"], ["2 parts for 4 devices"]),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    options: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, ["demo", "--out", str(tmp_path / "out"), *options])
    assert all(word in error for word in words), error
    assert not (tmp_path / "out").exists()


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "choose another --out" in error_of(capsys, ["demo", "--out", str(tmp_path)])
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("arguments", [["demo", "--devices", "0"], ["demo", "--rounds", "x"], ["nope"], []])
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["demo"], ["init"], ["run"]])
def test_every_help_ends_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*command, "--help"])
    assert exit_info.value.code == 0
    assert "bramble-server" in capsys.readouterr().out.strip().splitlines()[-1]


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "broker_server.cli", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "bramble-server" in result.stdout


def test_init_makes_a_fleet_that_loads_and_is_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ward = tmp_path / "ward"
    assert main(["init", str(ward), "--devices", "3", "--kind", "table", "--model", "small_mlp"]) == 0
    assert "server_key" in capsys.readouterr().out
    config = load_config(ward / "server.toml")
    assert (config.fleet, config.rounds.wait_for, config.model.kind) == ("ward", 3, "table")
    assert (ward / "keys" / "release.key").stat().st_mode & 0o777 == 0o600
    before = (ward / "server.toml").read_bytes()
    assert "never overwritten" in error_of(capsys, ["init", str(ward)])
    assert (ward / "server.toml").read_bytes() == before


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    assert main(["init", str(tmp_path / "ward"), "--broker", "embedded"]) == 0
    return tmp_path / "ward" / "server.toml"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[rounds]", "[rounds]\nfoo = 3", ["rounds", "unknown key 'foo'", "deadline_s"]),
        ("quorum = 2", "quorum = 0", ["quorum", "from 1"]),
        ("quorum = 2", "quorum = 9", ["wait_for (2) is less than rounds.quorum (9)"]),
        ('up = "safe"', 'up = "best"', ["'best'", "lossless"]),
        ("[model]", "[model", ["is not TOML"]),
        ("batch_size = 16", "batch_size = 16\nmicro_batch = 5", ["micro_batch (5) does not divide"]),
    ],
)
def test_settings_say_what_is_wrong(
    old: str, new: str, words: list[str], fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.write_text(fleet.read_text().replace(old, new))
    error = error_of(capsys, ["run", "--config", str(fleet)])
    assert all(word in error for word in ["server.toml", *words]), error


def test_missing_settings_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none.toml" in error_of(capsys, ["run", "--config", str(tmp_path / "none.toml")])


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def test_a_port_in_use_is_named(fleet: Path, taken_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.write_text(fleet.read_text().replace("port = 8883", f"port = {taken_port}"))
    error = error_of(capsys, ["run", "--config", str(fleet)])
    assert str(taken_port) in error and "in use" in error


def test_two_servers_cannot_share_a_fleet(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from broker_server.store.ledger import Ledger

    fleet.write_text(fleet.read_text().replace("port = 8883", "port = 0"))
    ledger = Ledger(fleet.parent / "state" / "ledger.sqlite")
    try:
        assert "in use by another server" in error_of(capsys, ["run", "--config", str(fleet)])
    finally:
        ledger.close()
