"""``bramble-provision flash`` through its command line, from the plan to a personalised card."""

from __future__ import annotations

import builtins
import hashlib
import json
import lzma
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provisioning import flash_commands
from provisioning.cli import main
from provisioning.customise.fat import BootPartition
from provisioning.enrolment.progress import fleet_progress
from provisioning.image.errors import FlashError
from provisioning.image.register import read_register
from provisioning.pki.authority import FleetCA
from tests.provisioning import card_images
from tests.provisioning.card_images import BOOT_AT, check_file_systems, needs_tools
from tests.provisioning.flashing import flip, folder, image_bytes, looks_unfinished
from tests.provisioning.test_inspect import PASSPHRASE, TOKEN
from tests.provisioning.test_inspect import folder as cards

__all__ = ["cards", "folder"]  # fixtures
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def image(folder: Path) -> Path:
    """A plain image with its hash beside it."""
    path = folder / "os.img.xz"
    path.write_bytes(lzma.compress(image_bytes(), preset=0))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("os.img.xz.sha256").write_text(f"{digest}  os.img.xz\n", encoding="utf-8")
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> Any:
    """What the command prints with ``--json``."""
    capsys.readouterr()
    assert main(["flash", *map(str, arguments), "--json"]) == status
    captured = capsys.readouterr()
    assert captured.err == ""  # no bar where there is no terminal
    return json.loads(captured.out)


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["flash", *map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    image: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = folder / "card.img"
    plan = told(capsys, image, "--device", card, "--dry-run")
    assert plan["dry_run"] and plan["plan"]["bytes"] == len(image_bytes())
    assert main(["flash", str(image), "--device", str(card), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "SHA-256" in out and "a new file" in out
    assert not card.exists()


def test_done_says_what_was_done(image: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = folder / "card.img"
    result = told(capsys, image, "--device", card, "--yes")["results"][0]
    assert (result["state"], result["verified"], result["bytes"]) == ("done", True, len(image_bytes()))
    assert result["sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    assert {"write", "verify", "finish"} < set(result["seconds"])
    assert card.read_bytes() == image_bytes()
    assert main(["flash", str(image), "--device", str(card), "--yes"]) == 0
    assert f"done: {card}: 12 MB written, read back in" in capsys.readouterr().out


def test_nothing_happens_without_a_yes(
    image: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = folder / "card.img"
    assert "add --yes" in failure(capsys, image, "--device", card)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert "add --yes" in failure(capsys, image, "--device", card, "--json")
    monkeypatch.setattr(builtins, "input", lambda _question: "y")
    assert "nothing was written" in failure(capsys, image, "--device", card)

    def end_of_file(_question: str) -> str:
        raise EOFError

    monkeypatch.setattr(builtins, "input", end_of_file)  # Ctrl-D
    assert "nothing was written" in failure(capsys, image, "--device", card)
    assert not card.exists()
    monkeypatch.setattr(builtins, "input", lambda _question: "yes")
    assert main(["flash", str(image), "--device", str(card)]) == 0
    assert card.read_bytes() == image_bytes()


def test_refusals_before_anything_is_written(
    image: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = folder / "card.img"
    assert "no device is named" in failure(capsys, image, "--yes")
    assert "64 hexadecimal digits" in failure(capsys, image, "--device", card, "--sha256", "12", "--yes")
    image.with_name("os.img.xz.sha256").unlink()
    assert "--no-hash" in failure(capsys, image, "--device", card, "--yes")
    assert not card.exists()


def test_a_wrong_hash_ends_unfinished(image: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card, register = folder / "card.img", folder / "register.csv"
    arguments = (image, "--device", card, "--sha256", "0" * 64, "--yes", "--register", register)
    result = told(capsys, *arguments, status=1)["results"][0]
    assert result["state"] == "unfinished" and "has SHA-256" in result["reason"]
    assert main(["flash", *map(str, arguments)]) == 1
    assert "it has no first block and does not boot" in capsys.readouterr().out
    assert looks_unfinished(card)
    (row,) = read_register(register)
    assert (row["state"], row["verified"]) == ("unfinished", "no")


def test_ctrl_c_says_what_is_unfinished(
    image: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, begin: Callable[[], object], **_named: object) -> None:
        begin()
        raise KeyboardInterrupt

    monkeypatch.setattr(flash_commands, "flash", interrupted)
    register = folder / "register.csv"
    arguments = ["flash", str(image), "--device", str(folder / "card.img"), "--yes", "--register"]
    assert main([*arguments, str(register)]) == 130
    assert "unfinished: " in capsys.readouterr().err
    assert read_register(register)[0]["state"] == "writing"


def test_a_real_interrupt_ends_the_real_program(folder: Path) -> None:
    """SIGINT while it writes: status 130, said so, no first block."""
    image, card = folder / "os.img.xz", folder / "card.img"
    image.write_bytes(lzma.compress(image_bytes(), preset=0))
    code = (
        "import os, signal, sys\n"
        "from provisioning.image import writer\n"
        "real = writer._Writer._write\n"
        "def write(self, chunk):\n"
        "    os.kill(os.getpid(), signal.SIGINT) if chunk.position else None\n"
        "    real(self, chunk)\n"
        "writer._Writer._write = write\n"
        "from provisioning.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, "flash", str(image), "--device", str(card), "--no-hash", "--yes"]
    result = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (result.returncode, "done" in result.stdout) == (130, False)
    assert "unfinished" in result.stderr and "Traceback" not in result.stderr
    assert looks_unfinished(card)


# ---- with cards ----


@pytest.fixture
def on_cards(cards: Path, folder: Path) -> tuple[str, ...]:
    return (
        str(cards / "pios.img"), "--card", str(cards / "cards.toml"),
        "--wheelhouse", str(cards / "wheels"), "--yes",
    )  # fmt: skip


@pytest.mark.parametrize("_tools", [pytest.param(None, marks=needs_tools)])
def test_two_cards_each_with_its_own_identity(
    _tools: None, on_cards: tuple[str, ...], cards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register = cards / "register.csv"
    devices = [cards / "a.img", cards / "b.img"]
    document = told(
        capsys, *on_cards, "--name", "pi-1", "--device", devices[0], "--name", "pi-2", "--device", devices[1],
        "--register", register,
    )  # fmt: skip
    assert [(each["name"], each["state"], each["personalised"]) for each in document["results"]] == [
        ("pi-1", "done", True), ("pi-2", "done", True),
    ]  # fmt: skip
    for name, device in zip(("pi-1", "pi-2"), devices, strict=True):
        check_file_systems(device)
        data = BootPartition(device, BOOT_AT).read("user-data")
        assert data is not None and f"hostname: {name}".encode() in data
        assert device.stat().st_mode & 0o777 == 0o600
    assert [(row["name"], row["personalised"]) for row in read_register(register)] == [
        ("pi-1", "yes"), ("pi-2", "yes"),
    ]  # fmt: skip
    text = json.dumps(document) + register.read_text(encoding="utf-8")
    assert TOKEN not in text and PASSPHRASE not in text


@pytest.mark.parametrize("_tools", [pytest.param(None, marks=needs_tools)])
def test_the_fleet_hears_of_a_finished_card(
    _tools: None, on_cards: tuple[str, ...], cards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the authority at hand a token is made for the card, and `watch` shows it as flashed."""
    authority = cards / "authority"
    assert main(["ca", "init", "--fleet", "ward", "--ca", str(authority)]) == 0
    settings = (cards / "cards.toml").read_text(encoding="utf-8")
    (cards / "cards.toml").write_text(settings.replace('token_file = "token"\n', ""), encoding="utf-8")
    arguments = (*on_cards, "--ca", authority, "--name", "pi-2", "--device", cards / "a.img")
    told(capsys, *arguments, "--dry-run")
    assert fleet_progress(FleetCA.open(authority)) == ()  # no token for a plan
    assert told(capsys, *arguments)["results"][0]["state"] == "done"
    (device,) = fleet_progress(FleetCA.open(authority))
    assert (device.name, device.stage) == ("pi-2", "flashed")


@pytest.mark.parametrize("_tools", [pytest.param(None, marks=needs_tools)])
def test_a_card_that_is_in_use_costs_no_token_and_no_row(
    _tools: None,
    on_cards: tuple[str, ...],
    cards: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority, register = cards / "authority", cards / "register.csv"
    assert main(["ca", "init", "--fleet", "ward", "--ca", str(authority)]) == 0
    settings = (cards / "cards.toml").read_text(encoding="utf-8")
    (cards / "cards.toml").write_text(settings.replace('token_file = "token"\n', ""), encoding="utf-8")

    def busy(path: Path, _disk: None) -> None:
        raise FlashError(f"{path} is in use")

    monkeypatch.setattr("provisioning.image.flash.open_target", busy)
    arguments = (*on_cards, "--ca", authority, "--name", "pi-2", "--device", cards / "a.img")
    assert "is in use" in failure(capsys, *arguments, "--register", register)
    assert not register.exists()
    assert not (authority / "enrolment.db").exists()  # a new token would have ended the one before


@pytest.mark.parametrize("_tools", [pytest.param(None, marks=needs_tools)])
def test_a_customisation_file_that_the_medium_lost_is_noticed(
    _tools: None, on_cards: tuple[str, ...], cards: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Between writing the files and reading them again past the cache, a bit of one of them flips."""
    device = cards / "a.img"
    real = flash_commands.personalise

    def damaged(*arguments: Any, **named: Any) -> Any:
        applied = real(*arguments, **named)
        flip(device, device.read_bytes().index(b"hostname: pi-2") + 12)
        return applied

    monkeypatch.setattr(flash_commands, "personalise", damaged)
    result = told(capsys, *on_cards, "--name", "pi-2", "--device", device, status=1)["results"][0]
    assert (result["state"], result["verified"], result["personalised"]) == ("unfinished", True, False)
    assert "differs from what was written" in result["reason"]
    assert looks_unfinished(device)


@pytest.mark.parametrize("_tools", [pytest.param(None, marks=needs_tools)])
def test_an_image_for_another_system_is_unfinished(
    _tools: None, on_cards: tuple[str, ...], cards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card_images.bookworm_image(cards / "pios.img")
    device = cards / "a.img"
    arguments = (*on_cards, "--no-hash", "--name", "pi-1", "--device", device)
    result = told(capsys, *arguments, status=1)["results"][0]
    assert result["state"] == "unfinished" and "bookworm" in result["reason"]
    assert looks_unfinished(device)


@pytest.mark.parametrize("option", ["--ca", "--wheelhouse", "--ssh-key", "--wifi-ssid", "--data"])
def test_options_of_a_card_without_a_card_write_no_bare_image(
    image: Path, folder: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would say done, and no device would ever be heard of."""
    card = folder / "card.img"
    assert "add --name NAME" in failure(capsys, image, "--device", card, option, "x", "--yes")
    assert not card.exists()


@pytest.mark.parametrize("_tools", [pytest.param(None, marks=needs_tools)])
def test_a_dry_run_checks_the_cards_too(
    _tools: None, on_cards: tuple[str, ...], cards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = cards / "a.img"
    arguments = (*on_cards, "--dry-run", "--name", "pi-1", "--device", device)
    assert told(capsys, *arguments)["plan"]["targets"][0]["name"] == "pi-1"
    (cards / "token").unlink()
    assert "token" in failure(capsys, *arguments)
    assert "2 names for 1 devices" in failure(capsys, *on_cards, "--dry-run", "--device", device)
    assert not device.exists()
