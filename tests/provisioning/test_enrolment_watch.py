"""How far a fleet has come, and the commands that say so."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_client.enrolment.enrol import enrol, report_step
from edge_client.enrolment.keys import new_key, signing_request
from edge_client.wire.enrolment import EnrolRequest, StepReport
from provisioning.cli import main
from provisioning.enrolment.progress import (
    STAGES,
    DeviceProgress,
    fleet_progress,
    note_flashed,
    what_to_check,
)
from provisioning.enrolment.tokens import parse_lifetime
from provisioning.enrolment.watch import all_joined, open_view, watch
from provisioning.pki.authority import FleetCA
from provisioning.pki.identity import ensure_identity
from tests.provisioning.enrolment_cases import Fleet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.create(tmp_path)


def stages(fleet: Fleet) -> dict[str, str]:
    return {device.name: device.stage for device in fleet_progress(fleet.authority, fleet.now())}


def one(fleet: Fleet) -> DeviceProgress:
    (device,) = fleet_progress(fleet.authority, fleet.now())
    return device


def test_a_device_goes_from_stage_to_stage(fleet: Fleet) -> None:
    desk, token = fleet.desk(), fleet.token("pi-1")
    seen = [one(fleet).stage]
    note_flashed(fleet.authority, "pi-1")
    seen.append(one(fleet).stage)
    desk.report(StepReport("pi-1", "network", "ok"), token=token)
    seen.append(one(fleet).stage)
    desk.report(StepReport("pi-1", "install", "started"), token=token)
    seen.append(one(fleet).stage)
    desk.report(StepReport("pi-1", "install", "ok"), token=token)
    seen.append(one(fleet).stage)
    desk.enrol(EnrolRequest("pi-1", signing_request(new_key(), "pi-1").decode(), "", "Pi 5"), token)
    seen.append(one(fleet).stage)
    desk.joined("pi-1")
    seen.append(one(fleet).stage)
    fleet.authority.revoke("pi-1")
    seen.append(one(fleet).stage)
    assert seen == ["prepared", "flashed", "booted", *STAGES[2:]]
    assert one(fleet).board == "Pi 5"
    fleet.token("pi-1")
    assert one(fleet).stage == "prepared", "a new token begins a new life"
    assert one(fleet).heard is None


def test_devices_made_beforehand_are_there_and_the_servers_own_names_are_not(fleet: Fleet) -> None:
    for name in ("aggregator", "pi-9"):
        ensure_identity(fleet.authority, fleet.folder / name, name)
    assert stages(fleet) == {"pi-9": "enrolled"}


def test_a_silent_device_is_listed_with_what_to_check(fleet: Fleet) -> None:
    fleet.token("pi-1")
    note_flashed(fleet.authority, "pi-1")
    assert what_to_check(one(fleet), 600.0, fleet.now()) == ""
    fleet.ahead = timedelta(minutes=11)
    assert "power, network cable or Wi-Fi country" in what_to_check(one(fleet), 600.0, fleet.now())
    fleet.ahead = timedelta(days=8)
    assert "token issue pi-1, and a new card" in what_to_check(one(fleet), 600.0, fleet.now())


def test_a_failed_step_is_shown_at_once_and_until_it_is_mended(fleet: Fleet) -> None:
    token, desk = fleet.token("pi-1"), fleet.desk()
    desk.report(StepReport("pi-1", "install", "failed", "checksum of numpy"), token=token)
    assert what_to_check(one(fleet), 600.0, fleet.now()) == "install failed: checksum of numpy"
    desk.report(StepReport("pi-1", "install", "ok"), token=token)
    desk.report(StepReport("pi-1", "time", "waiting", "90 s behind"), token=token)
    assert what_to_check(one(fleet), 600.0, fleet.now()) == ""


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ("joined", "revoked")])
def test_every_stage_that_is_no_end_says_what_to_check(stage: str) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    device = DeviceProgress("pi-1", stage, now.timestamp() - 700)  # type: ignore[arg-type]
    assert what_to_check(device, 600.0, now)
    assert not what_to_check(device, 800.0, now)


def test_a_fleet_has_joined_when_all_have(fleet: Fleet) -> None:
    assert not all_joined(())
    joined = DeviceProgress("a", "joined", 0.0)
    assert all_joined((joined, DeviceProgress("b", "revoked", 0.0)))
    assert not all_joined((joined, DeviceProgress("b", "enrolled", 0.0)))


def test_watching_ends_when_told_and_when_there_is_nothing_more_to_see() -> None:
    stop, shown = threading.Event(), []
    fleets = [(), (DeviceProgress("a", "joined", 0.0),)]

    def show(fleet: object, _now: datetime) -> None:
        shown.append(fleet)

    assert watch(lambda: fleets[len(shown)], show, stop, every_s=0.0, until=all_joined)
    assert shown == fleets
    stop.set()
    assert not watch(lambda: (), show, stop)


def test_json_lines_say_what_is_new_only(capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    a, b = DeviceProgress("a", "booted", now.timestamp()), DeviceProgress("b", "flashed", now.timestamp())
    with open_view(600.0, as_json=True) as show:
        show((a, b), now)
        show((a, b), now + timedelta(seconds=1))
        show((a, DeviceProgress("b", "booted", now.timestamp())), now)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["name"], line["stage"]) for line in lines] == [
        ("a", "booted"),
        ("b", "flashed"),
        ("b", "booted"),
    ]


def test_a_pipe_gets_the_table_when_something_changed(capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    device = DeviceProgress("pi-1", "flashed", now.timestamp() - 7000)
    with open_view(600.0, as_json=False) as show:
        show((), now)
        show((device,), now)
        show((device,), now + timedelta(seconds=1))
    assert capsys.readouterr().out.splitlines()[:4] == [
        "no device has a token or a certificate",
        "device    stage  for  heard",
        "pi-1    flashed  2 h  never",
        f"pi-1: {what_to_check(device, 600.0, now)}",
    ]


# ---- the commands ----


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def test_tokens_go_into_private_files_and_nowhere_else(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    out, ca = fleet.folder / "tokens", fleet.authority.directory
    assert run("token", "issue", "pi-1", "pi-2", "--expires", "12h", "--out", out, "--ca", ca) == 0
    text = (out / "pi-1.token").read_text().strip()
    assert stat.S_IMODE((out / "pi-1.token").stat().st_mode) == 0o600
    printed = capsys.readouterr()
    assert text not in printed.out + printed.err
    assert "pi-2" in printed.out
    assert run("token", "issue", "pi-1", "--out", out, "--ca", ca) == 1
    assert "pi-1.token exists" in capsys.readouterr().err
    assert run("token", "issue", "pi-3", "--json", "--out", out, "--ca", ca) == 0
    (fact,) = json.loads(capsys.readouterr().out)
    assert set(fact) == {"name", "file", "expires"}
    assert run("token", "list", "--ca", ca) == 0
    printed = capsys.readouterr()
    assert [line.split()[:2] for line in printed.out.splitlines()] == [[f"pi-{n}", "open"] for n in (1, 2, 3)]
    assert text not in printed.out


def test_a_revoked_name_that_gets_a_token_is_pointed_out(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_identity(fleet.authority, fleet.folder / "pi-1", "pi-1")
    fleet.authority.revoke("pi-1")
    out, ca = fleet.folder / "tokens", fleet.authority.directory
    assert run("token", "issue", "pi-1", "--out", out, "--ca", ca) == 0
    assert "pi-1 was revoked; with this token it is let in again" in capsys.readouterr().err


def test_revoking_a_token(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.token("pi-1")
    ca = fleet.authority.directory
    assert run("token", "revoke", "pi-1", "--dry-run", "--ca", ca) == 0
    assert capsys.readouterr().out == "would revoke 1 token of pi-1\n"
    assert run("token", "revoke", "pi-1", "--json", "--ca", ca) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "pi-1", "tokens": 1, "dry_run": False}
    assert run("token", "revoke", "pi-1", "--ca", ca) == 1
    assert "no open token" in capsys.readouterr().err
    assert run("token", "list", "--json", "--ca", ca) == 0
    (fact,) = json.loads(capsys.readouterr().out)
    assert (fact["state"], fact["why"]) == ("withdrawn", "it was revoked")


def test_lifetimes() -> None:
    assert parse_lifetime("7d") == timedelta(days=7)
    assert parse_lifetime("12h") == timedelta(hours=12)
    for text in ("", "7", "d", "-1d", "7w", "1.5d"):
        with pytest.raises(ValueError, match="such as 7d or 12h"):
            parse_lifetime(text)
    with pytest.raises(SystemExit):
        main(["token", "issue", "a", "--out", "x", "--expires", "7w"])


def test_watch_until_the_fleet_has_joined(fleet: Fleet) -> None:
    """The real command beside a real service: each stage is a line, and it ends by itself."""
    fleet.token("pi-1")
    command = ["watch", "--json", "--until-joined", "--ca", str(fleet.authority.directory)]
    with (
        fleet.service(),
        subprocess.Popen(
            [sys.executable, "-m", "provisioning.cli", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["stage"]]
        device = fleet.device("pi-1")
        report_step(device, "network", "ok")
        seen.append(json.loads(process.stdout.readline())["stage"])
        enrol(device)
        fleet.desk().joined("pi-1")
        seen += [json.loads(line)["stage"] for line in process.stdout]
        assert process.wait(60) == 0
    assert seen[:2] == ["prepared", "booted"]
    assert seen[-1] == "joined"


def test_watch_draws_a_table_on_a_terminal(fleet: Fleet) -> None:
    fleet.token("pi-1")
    ours, theirs = pty.openpty()
    command = ["watch", "--once", "--ca", str(fleet.authority.directory)]
    subprocess.run([sys.executable, "-m", "provisioning.cli", *command], cwd=ROOT, stdout=theirs, check=True)
    os.close(theirs)
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "0 of 1 joined" in drawn
    assert "pi-1" in drawn and "prepared" in drawn


def test_looking_at_an_authority_writes_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    (fleet.authority.directory / ".lock").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in fleet.authority.directory.iterdir()}
    FleetCA.open(fleet.authority.directory).ledger()
    assert {path.name: path.stat().st_mtime_ns for path in fleet.authority.directory.iterdir()} == before
