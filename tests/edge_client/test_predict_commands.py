"""``bramble-edge predict``, ``watch`` and ``serve`` as a person types them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edge_client.cli import main
from edge_client.inference.likeness import describe, fit_likeness, moments
from edge_client.inference.slots import FOLDER, ModelSlots
from edge_client.wire.calibration import Answering
from tests.edge_client.inference_cases import SHAPE, SPEC, brightness_model

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device with model 3, which knows pictures of medium brightness."""
    (tmp_path / "edge.toml").write_text(
        'name = "pi-1"\nfleet = "ward"\n'
        f'server_key = "{"0" * 64}"\nstate = "state"\n'
        '[broker]\nhost = "localhost"\nport = 1883\n[data]\nsource = "folder:images"\n'
    )
    rng = np.random.default_rng(0)
    usual = rng.uniform(0.3, 0.7, (200, 1, 1, 1)) + rng.normal(0, 0.01, (200, *SHAPE))
    likeness = fit_likeness(moments(describe(usual.astype(np.float32), SPEC.input)))
    slots = ModelSlots(tmp_path / "state" / FOLDER)
    slots.activate(slots.stage(3, brightness_model(), SPEC, answering=Answering(1.0, likeness)))
    return tmp_path


def picture(path: Path, value: int) -> Path:
    noise = np.random.default_rng(value).normal(0, 2.5, (4, 4))
    Image.fromarray(np.clip(value + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def run(device: Path, *arguments: str) -> int:
    return main([*arguments, "--config", str(device / "edge.toml")])


def test_a_picture_is_answered_and_a_strange_one_refused(
    device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual, strange = picture(device / "usual.png", 150), device / "strange.png"
    Image.fromarray(np.array([[0, 255] * 2, [255, 0] * 2] * 2, np.uint8)).save(strange)
    assert run(device, "predict", str(usual), str(strange)) == 0
    _, answered, refused = capsys.readouterr().out.splitlines()
    assert answered.startswith("bright ")
    assert refused.startswith("refused ") and "unlike the training images (distance" in refused
    assert run(device, "predict", "--json", str(strange)) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["label"], row["refused"], row["model_version"]) == (None, True, 3)
    assert row["unlike"] > 1


def test_standard_input_is_a_picture(
    device: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture(device / "scan.png", 100).read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert run(device, "predict", "--json", "-") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["file"], row["label"]) == ("-", "dark")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    assert run(device, "predict", "-") == 1
    assert "standard input holds 0 bytes" in capsys.readouterr().err


def test_the_camera_is_asked(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = picture(device / "scan.png", 100)
    assert run(device, "predict", "--json", "--camera", f"cp {scan} {{file}}") == 0
    assert json.loads(capsys.readouterr().out)["label"] == "dark"
    assert run(device, "predict", "--camera", "false {file}") == 1
    assert capsys.readouterr().err == "error: false took no picture: it said nothing\n"


def test_a_file_that_cannot_be_read_is_an_error(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (device / "notes.png").write_text("no picture")
    assert run(device, "predict", str(device / "notes.png")) == 1
    assert "no answer" in capsys.readouterr().out


def test_what_is_no_folder_is_not_watched(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(device, "watch", str(device / "nowhere"), "--out", str(device / "r.jsonl")) == 1
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_the_page_is_served_until_told_to_stop(device: Path) -> None:
    command = ["serve", "--port", "0", "--config", str(device / "edge.toml")]
    with subprocess.Popen(
        [sys.executable, "-m", "edge_client.cli", *command],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[3]
        with urllib.request.urlopen(f"{url}model", timeout=30) as answer:  # noqa: S310 - our own address
            assert json.load(answer)["version"] == 3
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
