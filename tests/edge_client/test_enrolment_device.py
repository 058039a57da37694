"""The device's side of enrolment: key, certificate, token file, steps, exit statuses. The service is real."""

from __future__ import annotations

import errno
import json
import re
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from broker_server.fleet import write_settings
from edge_client.cli import main
from edge_client.config import EdgeConfig, load_config
from edge_client.enrolment import enrol as enrol_module
from edge_client.enrolment import steps as steps_module
from edge_client.enrolment.enrol import enrol, enrol_within, renew
from edge_client.enrolment.errors import EnrolmentError, TryLaterError
from edge_client.enrolment.identity import DeviceIdentity
from edge_client.enrolment.renewal import DAILY_S, FIRST_S, keep_renewed
from edge_client.enrolment.steps import MAX_STATUS_BYTES, STATUS_FILE_VARIABLE, Steps, status_file
from edge_client.session.inbox import ConnectionChange
from provisioning.enrolment.store import EnrolmentStore
from provisioning.pki.identity import ensure_identity
from tests.edge_client.agent_cases import Case
from tests.provisioning.enrolment_cases import Fleet, certificate_of, without_token

LINE = re.compile(r"\d+\.\d \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (\w+) (\w+)(?: (.+))?")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet.create(tmp_path)
    with fleet.service():
        yield fleet


def steps_of(fleet: Fleet, name: str) -> list[tuple[str, str, str]]:
    """What the status file says, and that it says it in its form."""
    lines = (fleet.folder / name / "status.log").read_text("ascii").splitlines()
    matches = [LINE.fullmatch(line) for line in lines]
    return [(match[1], match[2], match[3] or "") for match in matches if match is not None]


def settings_file(config: EdgeConfig, folder: Path) -> str:
    write_settings(folder / "edge.toml", config)
    assert load_config(folder / "edge.toml") == config
    return str(folder / "edge.toml")


# ---- getting a certificate ----


def test_the_key_is_private_from_birth_and_the_token_goes_last(fleet: Fleet) -> None:
    fleet.token("pi-1")
    device = fleet.device("pi-1")
    outcome = enrol(device)
    folder = fleet.folder / "pi-1"
    assert (outcome.name, outcome.what) == ("pi-1", "enrolled")
    assert stat.S_IMODE((folder / "device.key").stat().st_mode) == 0o600
    assert not (folder / "pi-1.token").exists()
    assert DeviceIdentity.of(device).standing() == "good"
    assert steps_of(fleet, "pi-1") == [
        ("network", "ok", f"reached 127.0.0.1:{fleet.port}"),
        ("time", "ok", ""),
        ("enrol", "ok", "certificate stored"),
    ]


def test_a_good_certificate_needs_no_network(fleet: Fleet) -> None:
    fleet.token("pi-1")
    enrol(fleet.device("pi-1"))
    fleet.port = 1
    device = fleet.device("pi-1")
    (fleet.folder / "pi-1" / "pi-1.token").write_text("left over by a power cut")
    key = (fleet.folder / "pi-1" / "device.key").read_bytes()
    assert enrol(device).what == "already"
    assert not (fleet.folder / "pi-1" / "pi-1.token").exists()
    assert (fleet.folder / "pi-1" / "device.key").read_bytes() == key


def test_again_takes_the_token_in_spite_of_a_certificate(fleet: Fleet) -> None:
    fleet.token("pi-1")
    device = fleet.device("pi-1")
    enrol(device)
    fleet.authority.revoke("pi-1")
    fleet.token("pi-1")
    assert enrol(device, again=True).what == "enrolled"
    assert renew(device) is False


def test_an_interrupted_enrolment_goes_on_with_the_same_key(fleet: Fleet) -> None:
    device = fleet.device("pi-1")
    DeviceIdentity.of(device).request()
    key = (fleet.folder / "pi-1" / "device.key").read_bytes()
    fleet.token("pi-1")
    enrol(device)
    assert (fleet.folder / "pi-1" / "device.key").read_bytes() == key


def test_a_certificate_of_another_key_name_or_fleet_is_not_kept(fleet: Fleet, tmp_path: Path) -> None:
    fleet.token("pi-1")
    fleet.token("pi-2")
    enrol(fleet.device("pi-1"))
    enrol(fleet.device("pi-2"))
    other = certificate_of(fleet.device("pi-2"))
    device = fleet.device("pi-1")
    mine = certificate_of(device).read_bytes()
    with pytest.raises(EnrolmentError, match="another name or key"):
        DeviceIdentity.of(device).store(other.read_text())
    with pytest.raises(EnrolmentError, match="is not PEM"):
        DeviceIdentity.of(device).store("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    stranger = Fleet.create(tmp_path / "stranger")
    foreign = ensure_identity(stranger.authority, tmp_path / "foreign", "pi-1").certificate_file.read_text()
    with pytest.raises(EnrolmentError, match="not one that the authority"):
        DeviceIdentity.of(device).store(foreign)
    assert certificate_of(device).read_bytes() == mine
    certificate_of(device).write_bytes(other.read_bytes())
    assert DeviceIdentity.of(device).standing() == "none"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "holds no enrolment token"),
        (b"brt_short", "holds no enrolment token"),
        (b"\xff" * 100, "holds no enrolment token"),
    ],
    ids=["missing", "empty", "short", "binary"],
)
def test_a_token_file_that_is_none_is_named(fleet: Fleet, content: bytes | None, reason: str) -> None:
    device = fleet.device("pi-1")
    if content is not None:
        (fleet.folder / "pi-1" / "pi-1.token").write_bytes(content)
    with pytest.raises(EnrolmentError, match=rf"token_file .*pi-1\.token.*{reason}"):
        enrol(device)
    ((step, state, detail),) = steps_of(fleet, "pi-1")
    assert (step, state) == ("enrol", "failed")
    assert reason in detail


def test_settings_that_cannot_work_are_named(fleet: Fleet) -> None:
    device = fleet.device("pi-1")
    with pytest.raises(EnrolmentError, match=r"no \[enrolment\] section"):
        enrol(replace(device, enrolment=None))
    with pytest.raises(EnrolmentError, match="no token_file"):
        enrol(without_token(device))
    bare = replace(device.broker, ca_file=None, certificate_file=None, key_file=None)
    with pytest.raises(EnrolmentError, match="needs ca_file, certificate_file and key_file"):
        enrol(replace(device, broker=bare))
    fleet.token("pi-1")
    with pytest.raises(EnrolmentError, match="ca_file"):
        enrol(fleet.device("pi-1", ca_file=fleet.folder / "nowhere.crt"))


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_key_is_named_and_never_replaced(fleet: Fleet, content: bytes) -> None:
    fleet.token("pi-1")
    device = fleet.device("pi-1")
    (fleet.folder / "pi-1" / "device.key").write_bytes(content)
    with pytest.raises(EnrolmentError, match=r"device\.key is not an unencrypted PEM key"):
        enrol(device)
    assert (fleet.folder / "pi-1" / "device.key").read_bytes() == content


# ---- keeping it good ----


def turned(fleet: Fleet, days: float) -> datetime:
    """The clocks of both sides, so many days on."""
    fleet.ahead = timedelta(days=days)
    return datetime.now(UTC) + fleet.ahead


def test_a_certificate_that_is_due_is_renewed_at_the_next_start(fleet: Fleet) -> None:
    fleet.token("pi-1")
    device = fleet.device("pi-1")
    first = enrol(device)
    assert enrol(device, now=turned(fleet, 240)).what == "already"
    later = enrol(device, now=turned(fleet, 250))
    assert later.what == "renewed"
    assert later.not_after - first.not_after > timedelta(days=249)
    assert enrol(device, now=turned(fleet, 251)).what == "already"


def test_a_renewal_that_cannot_be_done_now_keeps_nobody_from_starting(fleet: Fleet) -> None:
    fleet.token("pi-1")
    enrol(fleet.device("pi-1"))
    fleet.port = 1
    assert enrol(fleet.device("pi-1"), now=turned(fleet, 300)).what == "already"
    assert steps_of(fleet, "pi-1")[-1][:2] == ("enrol", "waiting")


def test_a_renewal_that_is_refused_needs_a_person(fleet: Fleet) -> None:
    fleet.token("pi-1")
    device = fleet.device("pi-1")
    enrol(device)
    fleet.authority.revoke("pi-1")
    with pytest.raises(EnrolmentError, match="is revoked"):
        enrol(device, now=turned(fleet, 300))
    assert steps_of(fleet, "pi-1")[-1][:2] == ("enrol", "failed")


def test_an_expired_certificate_needs_a_new_token(fleet: Fleet) -> None:
    fleet.token("pi-1")
    device = fleet.device("pi-1")
    enrol(device)
    after = turned(fleet, 400)
    with pytest.raises(EnrolmentError, match="token_file"):
        enrol(device, now=after)
    fleet.token("pi-1")
    assert enrol(device, now=after).what == "enrolled"


def test_a_certificate_made_beforehand_is_renewed(fleet: Fleet) -> None:
    """A fleet that was prepared offline and has an enrolment service later."""
    ensure_identity(fleet.authority, fleet.folder / "pi-1", "pi-1")
    device = without_token(fleet.device("pi-1"))
    for days in (0, 800):  # offline, it is enrolled all the same, also when a renewal would be due
        assert enrol(replace(device, enrolment=None), now=turned(fleet, days)).what == "already"
    turned(fleet, 0)
    assert enrol(device).what == "already"
    turned(fleet, 600)
    assert renew(device) is True


class Stop(threading.Event):
    """An event that notes how long it was waited for, and is set after some waits."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.waited: list[float] = []
        self._waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited.append(timeout)
        return len(self.waited) > self._waits


def test_a_running_service_asks_once_a_day_whatever_goes_wrong(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[bool | Exception] = [TryLaterError("no network"), OSError("disk full"), True, False]

    def ask() -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    stop = Stop(4)
    caplog.set_level("INFO")
    keep_renewed(ask, stop, Random(1))
    assert answers == []
    assert FIRST_S[0] <= stop.waited[0] <= FIRST_S[1]
    assert all(DAILY_S[0] <= pause <= DAILY_S[1] for pause in stop.waited[1:])
    assert [record.message for record in caplog.records] == [
        "the certificate was not renewed: no network",
        "the certificate was not renewed: disk full",
        "the certificate was renewed",
    ]


# ---- trying again ----


def test_it_tries_again_until_the_service_is_there(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.token("pi-1")
    device, tries = fleet.device("pi-1"), []

    def first_in_vain(config: EdgeConfig, *, again: bool) -> enrol_module.Outcome:
        tries.append(again)
        if len(tries) < 3:
            raise TryLaterError("no route")
        return enrol(config, again=again)

    monkeypatch.setattr(enrol_module, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr(enrol_module, "enrol", first_in_vain)
    assert enrol_within(device, 60.0, rng=Random(1)).what == "enrolled"
    assert tries == [False] * 3
    tries.clear()
    with pytest.raises(TryLaterError):
        enrol_within(device, 0.0)


def test_nothing_there_is_no_reason_to_give_up(fleet: Fleet) -> None:
    fleet.token("pi-1")
    fleet.port = 1
    with pytest.raises(TryLaterError, match="Connection refused"):
        enrol(fleet.device("pi-1"))
    ((step, state, detail),) = steps_of(fleet, "pi-1")
    assert (step, state) == ("network", "waiting")
    assert "Connection refused" in detail


# ---- steps ----


def test_the_status_file_is_where_the_installer_says(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = fleet.device("pi-1")
    assert device.enrolment is not None
    silent = replace(device, enrolment=replace(device.enrolment, status_file=None))
    assert status_file(device) == fleet.folder / "pi-1" / "status.log"
    monkeypatch.setattr(steps_module, "DEFAULT_STATUS_FILE", tmp_path / "boot" / "status.log")
    assert status_file(silent) is None
    (tmp_path / "boot").mkdir()
    assert status_file(silent) == tmp_path / "boot" / "status.log"
    monkeypatch.setenv(STATUS_FILE_VARIABLE, str(tmp_path / "here.log"))
    assert status_file(device) == tmp_path / "here.log"


def test_the_status_file_stays_small_and_keeps_the_newest(fleet: Fleet) -> None:
    device = fleet.device("pi-1")
    steps = Steps(device, None)
    path = fleet.folder / "pi-1" / "status.log"
    path.write_text("0.0 2026-01-01T00:00:00Z network ok old\n" * (MAX_STATUS_BYTES // 40 + 10))
    steps.note("service", "ok", "new\nline\x1b[0m é " + "x" * 300)
    assert path.stat().st_size < MAX_STATUS_BYTES
    lines = path.read_text("ascii").splitlines()
    assert lines[0] == "0.0 2026-01-01T00:00:00Z network ok old"
    assert len(lines[-1]) < 260
    assert " service ok new line" in lines[-1]


def test_a_status_file_that_cannot_be_written_stops_nothing(fleet: Fleet) -> None:
    fleet.token("pi-1")
    (fleet.folder / "pi-1" / "status.log").mkdir()
    assert enrol(fleet.device("pi-1")).what == "enrolled"


def test_a_clock_that_is_wrong_is_reported(fleet: Fleet) -> None:
    assert enrol_module._clock(10.0) == ("ok", "")
    assert enrol_module._clock(86_400.0) == ("waiting", "this clock is 86400 s behind")
    assert enrol_module._clock(-86_400.0) == ("waiting", "this clock is 86400 s ahead")
    assert enrol_module._clock(None)[0] == "waiting"


def test_joining_the_broker_is_written_down_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATUS_FILE_VARIABLE, str(tmp_path / "status.log"))
    case = Case(tmp_path, monkeypatch)
    case.session.inbox += [ConnectionChange(True, "connected"), ConnectionChange(False, "lost")] * 2
    case.agent._step()
    (line,) = (tmp_path / "status.log").read_text("ascii").splitlines()
    match = LINE.fullmatch(line)
    assert match is not None
    assert match.groups() == ("joined", "ok", f"connected to {case.config.broker}")


# ---- the commands ----


def test_exit_statuses(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.token("pi-1")
    settings = settings_file(fleet.device("pi-1"), fleet.folder / "pi-1")
    port, fleet.port = fleet.port, 1
    early = settings_file(fleet.device("pi-1"), fleet.folder)
    assert main(["enrol", "--config", early]) == 75
    assert capsys.readouterr().err.startswith("not yet: 127.0.0.1:1: ")
    assert main(["enrol", "--config", settings, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "enrolled"
    assert main(["enrol", "--config", settings, "--wait", "1"]) == 0
    assert capsys.readouterr().out.startswith("pi-1: already, certificate until 20")
    fleet.port = port
    lost = settings_file(fleet.device("pi-2"), fleet.folder / "pi-2")
    assert main(["enrol", "--config", lost]) == 1
    assert "token_file" in capsys.readouterr().err


def test_report_step_tells_both_and_never_fails(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.token("pi-1")
    device = fleet.device("pi-1")
    settings = settings_file(device, fleet.folder / "pi-1")
    assert main(["report-step", "install", "ok", "--detail", "in 12 s", "--config", settings]) == 0
    assert steps_of(fleet, "pi-1") == [("install", "ok", "in 12 s")]
    with EnrolmentStore(fleet.authority.directory).look() as look:
        assert [(row.step, row.detail) for row in look.steps()] == [("install", "in 12 s")]
    bare = settings_file(replace(device, enrolment=None), fleet.folder)
    assert main(["report-step", "install", "failed", "--config", bare]) == 0
    capsys.readouterr()
    assert main(["report-step", "install", "ok", "--config", settings, "--json"]) == 0
    words = {"name": "pi-1", "step": "install", "state": "ok", "detail": ""}
    assert json.loads(capsys.readouterr().out) == words | {"server_told": True}
    fleet.port = 1
    unreachable = settings_file(fleet.device("pi-1"), fleet.folder)
    assert main(["report-step", "service", "started", "--config", unreachable, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["server_told"] is False
    assert steps_of(fleet, "pi-1")[-1] == ("service", "started", "")


@pytest.mark.parametrize(("code", "status"), [(errno.ENOSPC, 75), (errno.EACCES, 1)])
def test_a_full_disk_is_tried_again_and_a_wrong_permission_is_not(
    code: int, status: int, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, "as it is", "device.key")

    settings = settings_file(fleet.device("pi-1"), tmp_path)
    monkeypatch.setattr(enrol_module, "enrol_within", fail)
    assert main(["enrol", "--config", settings]) == status
