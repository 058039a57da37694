"""Ours and the bare exchange with real processes; Flower where an environment has it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.errors import BenchmarkError
from benchmarks.peers.compare import PARAMETERS, benchmark_peers, in_folder, ratio
from benchmarks.peers.floor import run_bare
from benchmarks.peers.flower import find_flower
from benchmarks.peers.network import Loopback
from benchmarks.peers.plan import Plan

FLOAT32_BYTES = 4 * 71_489


def test_the_bare_exchange_moves_every_parameter_both_ways() -> None:
    result = in_folder(lambda folder: run_bare(Plan(2, 3), folder, Loopback(), lambda _what, _share: None))
    assert PARAMETERS == 71_489
    for moved in (result.bytes_up_per_client_round, result.bytes_down_per_client_round):
        assert FLOAT32_BYTES * 0.6 < moved < FLOAT32_BYTES * 1.4  # rounds of milliseconds overlap a little
    assert len(result.rounds_s) == 3 and result.client_processes == 1
    same = ratio(result, result, result)
    assert same.bytes_up == same.client_pss == same.round_over_bare == 1.0


@pytest.mark.slow
def test_a_fleet_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fleet", "--clients", "2", "--rounds", "2", "--codec", "safe", "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["network"] == "loopback" and result["bytes_of"].startswith("TCP streams")
    fleet = result["fleet"]
    assert len(fleet["rounds_s"]) == 2
    assert 3_000 < fleet["bytes_up_per_client_round"] < FLOAT32_BYTES / 10
    assert fleet["bytes_down_once_per_client"] > FLOAT32_BYTES * 0.7  # the first weights, packed
    assert 20 < fleet["client_pss_mb"] < 120
    assert fleet["messages_per_s"] > 0 and fleet["broker_pss_mb"] > 0


def test_an_environment_without_flower_names_the_command() -> None:
    with pytest.raises(BenchmarkError, match=r"has no Flower; .*pip install 'flwr"):
        find_flower(Path(sys.executable))
    with pytest.raises(BenchmarkError, match="does not run"):
        find_flower(Path("/nowhere/python"))


def test_peers_without_flower_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", "--flower-python", "/nowhere/bin/python"]) == 1
    assert "python3 -m venv /nowhere && /nowhere/bin/pip install 'flwr>=1.40,<2'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif("BRAMBLE_FLOWER_PYTHON" not in os.environ, reason="needs an environment with Flower")
def test_flower_beside_ours() -> None:
    result = benchmark_peers(Plan(2, 1), flower_python=Path(os.environ["BRAMBLE_FLOWER_PYTHON"]))
    assert result.flower.bytes_up_per_client_round > FLOAT32_BYTES
    assert result.ratio.bytes_up > 20 and result.ratio.client_pss > 3 and result.ratio.round_s > 3
