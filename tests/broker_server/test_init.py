"""``bramble-server init``: commented settings, from options or answers; the plan of the first round."""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from broker_server import init_commands
from broker_server.cli import main
from broker_server.config import CodecConfig, ModelConfig, ReleaseConfig, ServerConfig, load_config
from broker_server.first_round import plan_first_round
from broker_server.settings_text import COMMENTS, SECTIONS, settings_text
from broker_server.strategies import STRATEGIES, find_strategy
from compression.records import to_plain


def keys(plain: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in plain.items():
        found |= keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


def sections(config: Any, prefix: str = "") -> set[str]:
    inner = [field.name for field in fields(config) if is_dataclass(getattr(config, field.name))]
    below = {name for each in inner for name in sections(getattr(config, each), f"{prefix}{each}.")}
    return below | {f"{prefix}{name}" for name in inner}


def test_every_setting_is_explained_and_nothing_else() -> None:
    config = ServerConfig(fleet="ward")
    assert set(COMMENTS) == keys(to_plain(config)) and set(SECTIONS) == sections(config)


def test_the_text_reads_back_as_the_settings(tmp_path: Path) -> None:
    for name in STRATEGIES:
        config = ServerConfig(
            fleet="ward",
            model=ModelConfig(optimizer="sgd"),
            strategy=find_strategy(name),
            codec=CodecConfig(up="auto"),
            release=ReleaseConfig(enabled=False),
        )
        (tmp_path / "server.toml").write_text(settings_text(config))
        read = load_config(tmp_path / "server.toml")
        assert (read.strategy, read.codec, read.rollout) == (config.strategy, config.codec, config.rollout)


def test_what_is_not_set_can_be_uncommented(tmp_path: Path) -> None:
    lines = settings_text(ServerConfig(fleet="ward")).splitlines()
    text = "\n".join(line.removeprefix("# ") if " = " in line else line for line in lines)
    plain = tomllib.loads(text)
    assert plain["broker"]["ca_file"] == "ca.crt" and plain["model"]["loss"] and plain["cohort"]["size"] == 10
    (tmp_path / "server.toml").write_text(text)
    assert load_config(tmp_path / "server.toml").enrolment.port == 8884


def test_options_become_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--input",
        "32x48x3",
        "--strategy",
        "scaffold",
        "--optimizer",
        "sgd",
        "--codec",
        "small",
        "--epochs",
        "2",
    ]
    options += ["--learning-rate", "0.01", "--name", "ws.local", "--name", "10.0.0.5", "--json"]
    assert main(["init", str(tmp_path / "ward"), *options]) == 0
    said = json.loads(capsys.readouterr().out)
    config = load_config(Path(said["settings"]))
    assert (config.model.height, config.model.width, config.model.channels) == (32, 48, 3)
    assert config.strategy.TAG == "scaffold" and config.codec == CodecConfig(up="small", down="small")
    assert (config.rounds.epochs, config.rounds.learning_rate) == (2, 0.01)
    assert config.broker.names == ("ws.local", "10.0.0.5") and len(said["server_key"]) == 64


def test_it_asks_for_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter(["", "picture", "image", "", "8by8", "32x32x1", "none", "3", "", "scaffold", "", "a, b"])
    asked = []

    def ask(question: str, default: str) -> str:
        asked.append((question, default))
        return next(answers)

    options = [
        "directory",
        "fleet",
        "kind",
        "model",
        "input",
        "devices",
        "rounds",
        "strategy",
        "host",
        "names",
    ]
    arguments = argparse.Namespace(**dict.fromkeys(options), epochs=None, learning_rate=None, codec=None)
    arguments.directory, arguments.broker, arguments.port = tmp_path / "ward", "auto", 0
    init_commands.ask_missing(arguments, ask)
    assert arguments.strategy == "scaffold"
    arguments.optimizer = "sgd"  # or it would be refused
    config = init_commands.settings_of(arguments)
    assert (config.fleet, config.model.height, config.rounds.wait_for) == ("ward", 32, 3)
    assert config.broker.names == ("a", "b") and config.rounds.rounds == 15
    errors = capsys.readouterr().err
    assert all(wrong in errors for wrong in ("'picture'", "'8by8'", "'none'"))
    assert ("Rounds", "15") in asked


def test_without_a_terminal_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None if not hasattr(sys.stdin, "isatty") else sys.stdin)
    monkeypatch.setattr(init_commands, "_ask", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert main(["init", str(tmp_path / "ward")]) == 0


def test_a_strategy_that_needs_plain_sgd_gets_it(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "ward"), "--yes", "--strategy", "scaffold"]) == 0
    assert load_config(tmp_path / "ward" / "server.toml").model.optimizer == "sgd"


def test_the_plan_of_the_first_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--input", "16x16x1", "--dry-run", "--codec", "small", "--json"]
    assert main(["init", str(tmp_path / "ward"), *options]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "ward").exists()
    program = plan["program"]
    assert program["float32_bytes"] == 4 * program["parameters"]
    assert 0 < program["up_bytes"] < program["float32_bytes"] / 10
    assert program["once_bytes"] > program["float32_bytes"] / 2 and plan["codec_up"] == "small"
    assert all(peak > 20 for peak in program["peak_rss_mb"].values())


def test_a_tables_program_waits_for_its_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "ward"), "--kind", "table"]) == 0
    capsys.readouterr()
    settings = tmp_path / "ward" / "server.toml"
    assert main(["run", "--dry-run", "--config", str(settings)]) == 0
    assert "which columns they have" in capsys.readouterr().out
    assert not (tmp_path / "ward" / "state").exists()
    assert plan_first_round(load_config(settings)).program is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--input", "64x64x2"], "1 or 3 channels"),
        (["--codec", "zip"], "unknown profile 'zip'"),
        (["--model", "absent", "--dry-run"], "absent"),
    ],
)
def test_what_cannot_be(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "ward"), *options]) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "ward").exists()
