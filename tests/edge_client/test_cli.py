"""``bramble-edge``: help with examples, one clear line for what cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_client.cli import main
from edge_client.config import load_config

SETTINGS = """\
name = "pi-1"
fleet = "ward"
server_key = "{key}"
state = "state"

[broker]
host = "127.0.0.1"
port = 1883

[data]
source = "folder:scans"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    for index in range(10):
        for label in ("no", "yes"):
            path = tmp_path / "scans" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((12, 10), 20 * index, np.uint8)).save(path)
    path = tmp_path / "edge.toml"
    path.write_text(SETTINGS.format(key="0" * 64))
    return path


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_check_says_what_the_server_would_be_told(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(settings), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["counts"] == {"no": 8, "yes": 8}
    assert summary["validation_examples"] == 4
    assert main(["check", "--config", str(settings)]) == 0
    assert "pi-1 of fleet ward" in capsys.readouterr().out


def test_paths_in_the_settings_count_from_the_file(settings: Path) -> None:
    config = load_config(settings)
    assert config.state == str(settings.parent / "state")
    assert config.data.source == f"folder:{settings.parent / 'scans'}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "pi-1"', 'name = "pi/1"', ["name", "must match", "'pi/1'"]),
        ("port = 1883", "port = 99999", ["port", "from 1 to 65535", "99999"]),
        ("port = 1883", "port = 1883\ntopic = 1", ["broker", "unknown key 'topic'"]),
        ("[data]", "[data", ["is not TOML"]),
        ("0" * 64, "xyz", ["server_key"]),
        ("folder:scans", "folder:nowhere", ["nowhere", "No such file"]),
        ("folder:scans", "pigeon:scans", ["pigeon:", "folder:PATH"]),
    ],
)
def test_settings_say_what_is_wrong(
    old: str, new: str, words: list[str], settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.write_text(settings.read_text().replace(old, new))
    error = error_of(capsys, ["check", "--config", str(settings)])
    assert all(word in error for word in words), error


def test_missing_settings_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none.toml" in error_of(capsys, ["run", "--config", str(tmp_path / "none.toml")])


def test_without_a_release_there_is_no_answer(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, ["predict", "--config", str(settings), "x.png"])
    assert "no released model yet" in error


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["predict"], ["watch"], ["serve"]])
def test_every_help_ends_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*command, "--help"])
    assert exit_info.value.code == 0
    assert "example: bramble-edge" in capsys.readouterr().out.strip().splitlines()[-1]


@pytest.mark.parametrize("arguments", [[], ["nope"], ["predict"]])
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2


def test_it_runs_as_a_module(settings: Path) -> None:
    command = [sys.executable, "-m", "edge_client.cli", "check", "--config", str(settings)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "validation_examples" in result.stdout
