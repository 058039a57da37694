"""The demonstration, whole: what the README promises of its figures, on real data with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

PROMISED = (
    "dataset",
    "devices",
    "rounds",
    "final.accuracy",
    "final.int8_accuracy",
    "centralised.accuracy",
    "local_only.accuracy_mean",
    "bytes.up_per_client_round",
    "bytes.down_per_client_round",
    "bytes.float32_per_client_round",
    "model.float32_bytes",
    "model.int8_bytes",
    "broker",
    "wall_s",
)
PROMISED_OF_CLIENTS = ["peak_rss_mb", "imports_tensorflow", "model_version", "int8_latency_ms.p50"]


def demo(out: Path, *options: str) -> dict[str, Any]:
    """Run ``bramble-server demo --json`` in a process of its own; its report."""
    result = subprocess.run(
        [sys.executable, "-m", "broker_server.cli", "demo", "--json", "--out", str(out), *options],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=ROOT,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for noise in ("Traceback", "WARNING", "INFO:", "I0000"):
        assert noise not in result.stderr, result.stderr[-3000:]
    report: dict[str, Any] = json.loads(result.stdout)
    assert report == json.loads((out / "report.json").read_text())
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    return report


def at(report: Any, path: str) -> Any:
    return reduce(lambda node, key: node[key], path.split("."), report)


def check_promises(report: dict[str, Any]) -> None:
    assert [path for path in PROMISED if at(report, path) is None] == []
    for entry in report["rounds"]:
        assert entry["accuracy"] is not None and entry["loss"] is not None
    for client in report["clients"]:
        assert [path for path in PROMISED_OF_CLIENTS if at(client, path) is None] == []
        assert client["imports_tensorflow"] is False
        assert client["model_version"] == 1
        assert client["gate"]["verdict"] == "activated"
        assert client["peak_rss_mb"] < 100
    assert report["simulated"] is True
    assert report["incidents"] == []


@pytest.mark.parametrize("broker", ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def test_wisconsin(tmp_path: Path, broker: str) -> None:
    options = ["--partition", "sizes:35,25,22,18", "--devices", "4", "--broker", broker]
    report = demo(tmp_path / "out", *options, "--rounds", "20")
    check_promises(report)
    assert report["devices"] == 4
    assert report["final"]["accuracy"] >= 0.95
    assert abs(report["final"]["accuracy"] - report["final"]["int8_accuracy"]) <= 0.01
    shares = sorted(sum(client["examples"].values()) for client in report["clients"])
    assert shares[-1] / sum(shares) == pytest.approx(0.35, abs=0.02)


def test_pruned_and_trained_for_int8(tmp_path: Path) -> None:
    options = ["--devices", "3", "--rounds", "16", "--sparsity", "0.8", "--fake-int8", "--no-baselines"]
    report = demo(tmp_path / "out", *options)
    zeros = [entry["sparsity"] for entry in report["rounds"]]
    assert zeros == sorted(zeros) and zeros[12:] == pytest.approx([0.8] * 4, abs=0.002)
    assert report["model"]["float32_zipped_bytes"] > report["model"]["int8_zipped_bytes"] > 0
    calibration = report["calibration"]
    assert (calibration["used"], len(calibration["devices"])) == ("federated", 3)
    assert report["final"]["accuracy"] - report["final"]["int8_accuracy"] <= 0.02
    assert report["final"]["int8_accuracy"] >= 0.9 and report["incidents"] == []
    page = (tmp_path / "out" / "report.html").read_text()
    assert "How the int8 model was calibrated" in page and "Zeros" in page


def test_pneumonia_on_three_hospitals_that_differ(tmp_path: Path, medical_data: Path) -> None:
    source = f"npz:{medical_data / 'pneumoniamnist' / 'pneumoniamnist.npz'}"
    options = ["--devices", "3", "--partition", "dirichlet:0.5", "--no-baselines"]
    report = demo(tmp_path / "out", "--dataset", source, *options)
    assert report["final"]["accuracy"] >= 0.95
    assert report["final"]["int8_accuracy"] >= 0.94
    assert report["model"]["int8_calibration"] == "full-integer"
    assert report["bytes"]["ratio_up"] > 10


def test_a_folder_of_scans_stays_below_100_mb_a_client(tmp_path: Path, medical_data: Path) -> None:
    report = demo(
        tmp_path / "out", "--dataset", f"folder:{medical_data / 'brain-mri-tumor'}", "--rounds", "5"
    )
    check_promises(report)
    assert report["settings"]["batch size"] == "16"
