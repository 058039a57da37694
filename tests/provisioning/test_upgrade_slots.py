"""Two clients, a pointer, a trial: which one runs after each thing that can happen; and the launcher."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from edge_client.device import slots, unpack
from edge_client.device.launcher import command
from tests.provisioning.install_cases import CLIENT, wheelhouse

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync waits for everybody's writes, and no power cut comes here."""
    monkeypatch.setattr("os.sync", lambda: None)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def add(tmp_path: Path, state: Path, version: str, build: int, code: str = CLIENT) -> str:
    """Install a client; its slot."""
    with wheelhouse(tmp_path, version, build, code).archive.open("rb") as archive:
        return unpack.install(tmp_path / "opt", state, archive)


def two(tmp_path: Path, state: Path, code: str = CLIENT) -> Path:
    """Client 1.0 in slot a, and client 2.0, which runs `code`, in slot b and on trial."""
    assert add(tmp_path, state, "1.0", 1000) == "a"
    assert add(tmp_path, state, "2.0", 2000, code) == "b"
    return tmp_path / "opt"


def trial(state: Path) -> dict[str, object]:
    return slots.read_json(state / slots.TRIAL)


# ---- which client ----


def test_the_first_client_is_on_no_trial(tmp_path: Path, state: Path) -> None:
    add(tmp_path, state, "1.0", 1000)
    assert slots.begin_start(tmp_path / "opt", state) == ("a", False)
    assert not (state / slots.TRIAL).exists()


def test_a_new_client_that_comes_online_is_kept(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state)
    assert slots.begin_start(prefix, state) == ("b", True)
    assert slots.passed(state) is True
    assert slots.passed(state) is False
    assert [slots.begin_start(prefix, state) for _ in range(5)] == [("b", False)] * 5


def test_a_new_client_that_never_comes_online_is_left_after_three_starts(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state)
    starts = [slots.begin_start(prefix, state)[0] for _ in range(6)]
    assert starts == ["b", "b", "b", "a", "a", "a"]
    assert trial(state) == {"build": 2000, "state": "failed", "starts": 3, "reason": "not online in 3 starts"}
    assert slots.chosen(prefix, state) == "a"


def test_after_a_failed_trial_the_next_client_takes_the_failed_ones_place(
    tmp_path: Path, state: Path
) -> None:
    prefix = two(tmp_path, state)
    for _ in range(4):
        slots.begin_start(prefix, state)
    assert add(tmp_path, state, "3.0", 3000) == "b"
    assert slots.read_json(prefix / slots.POINTER) == {"active": "b", "previous": "a"}
    assert slots.begin_start(prefix, state) == ("b", True)  # a trial of its own
    assert trial(state)["starts"] == 1


@pytest.mark.parametrize("starts", [0, 1])
def test_a_client_installed_in_anothers_trial_leaves_the_proven_one(
    tmp_path: Path, state: Path, starts: int
) -> None:
    prefix = two(tmp_path, state)
    for _ in range(starts):
        slots.begin_start(prefix, state)
    assert add(tmp_path, state, "3.0", 3000) == "b"
    assert slots.client_of(prefix, "a")["build"] == 1000
    assert slots.read_json(prefix / slots.POINTER) == {"active": "b", "previous": "a"}
    assert [slots.begin_start(prefix, state)[0] for _ in range(4)] == ["b", "b", "b", "a"]


def test_an_archive_that_is_no_client_ends_nobodys_trial(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state)
    slots.begin_start(prefix, state)
    with pytest.raises(slots.SlotError, match="cannot be unpacked"):
        unpack.install(prefix, state, io.BytesIO(b"no archive"))
    assert slots.begin_start(prefix, state) == ("b", True)
    assert trial(state)["starts"] == 2


def test_where_a_start_cannot_be_counted_the_client_before_runs(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = two(tmp_path, state)

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(slots, "write_json", full)
        assert slots.begin_start(prefix, state) == ("a", False)
    assert slots.begin_start(prefix, state) == ("b", True)  # its trial begins when there is room again


def test_a_client_that_failed_without_a_network_can_be_tried_again(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state)
    for _ in range(4):
        slots.begin_start(prefix, state)
    assert slots.chosen(prefix, state) == "a"
    assert add(tmp_path, state, "2.0", 2000) == "b"  # the same build
    assert slots.begin_start(prefix, state) == ("b", True)
    assert trial(state)["starts"] == 1


def test_a_client_that_is_damaged_or_gone_gives_way_to_the_one_before(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state)
    (prefix / "b" / slots.CLIENT).write_text("{ not JSON")
    assert slots.begin_start(prefix, state) == ("a", False)
    (prefix / "a" / slots.CLIENT).unlink()
    with pytest.raises(slots.SlotError, match="holds no client; install one"):
        slots.chosen(prefix, state)


def test_a_pointer_that_the_power_cut_damaged_does_not_name_a_way_out(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state)
    (prefix / slots.POINTER).write_text(json.dumps({"active": "../../etc", "previous": "a"}))
    assert slots.chosen(prefix, state) == "a"


def test_a_trials_mark_of_another_client_counts_for_nothing(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state)
    slots.write_json(state / slots.TRIAL, {"build": 1, "state": "failed"})
    assert slots.begin_start(prefix, state) == ("b", True)


def test_a_link_in_the_services_folder_is_not_followed(state: Path, tmp_path: Path) -> None:
    target = tmp_path / "pointer.json"
    target.write_text("mine")
    (state / ".outcome.json.tmp").symlink_to(target)
    slots.write_json(state / "outcome.json", {"reason": "x"})
    assert target.read_text() == "mine"


# ---- unpacking ----


def archive_of(files: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type, entry.linkname = len(data), kind, "/etc/passwd"
            tar.addfile(entry, io.BytesIO(data))
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize(
    "archive",
    [
        archive_of({"../evil": b"x"}),
        archive_of({"/etc/evil": b"x"}),
        archive_of({"site/../../evil": b"x"}),
        archive_of({"other/file": b"x"}),
        archive_of({"site/link": b""}, kind=tarfile.SYMTYPE),
        archive_of({"site/x.py": b"x"}),
        archive_of({"client.json": b"{}", "site/x.py": b"x"}),
        io.BytesIO(b"no archive"),
        io.BytesIO(archive_of({"site/x.py": bytes(9000)}).getvalue()[:60]),
    ],
)
def test_what_is_not_a_client_leaves_the_running_one_alone(
    tmp_path: Path, state: Path, archive: io.BytesIO
) -> None:
    add(tmp_path, state, "1.0", 1000)
    archive.seek(0)
    with pytest.raises(slots.SlotError, match="cannot be unpacked"):
        unpack.install(tmp_path / "opt", state, archive)
    assert slots.begin_start(tmp_path / "opt", state) == ("a", False)
    assert sorted(path.name for path in (tmp_path / "opt").iterdir()) == ["a", "pointer.json"]
    assert not (tmp_path / "evil").exists()


# ---- the launcher ----


def launch(
    prefix: Path, state: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from pathlib import Path; from edge_client.device import slots, launcher\n"
        f"slots.TRIAL_S = 1\nlauncher.launch({list(arguments)!r}, prefix=Path({str(prefix)!r}), "
        f"state=Path({str(state)!r}))"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "LD_PRELOAD": "", "SECRET": "kept", **environment},
    )  # fmt: skip


def test_the_client_sees_what_it_brought_and_nothing_else(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state)
    done = launch(prefix, state, "run", "--config", "edge.toml")
    told = json.loads(done.stdout)
    site = str(prefix / "b" / "site")
    assert (told["version"], told["arguments"]) == ("2.0", ["run", "--config", "edge.toml"])
    assert told["path"][0] == site
    assert not any("packages" in place for place in told["path"]) and str(ROOT) not in told["path"]
    assert told["env"]["PYTHONPATH"] == site and told["env"]["SECRET"] == "kept"
    assert told["env"]["BRAMBLE_PREFIX"] == str(prefix)
    assert "LD_PRELOAD" not in told["env"]
    assert trial(state) == {}  # a command by hand is no start of the service


def test_libraries_and_bytecode_are_found_where_the_client_has_them(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    prefix = two(tmp_path, state)
    _, environment = command(prefix, "b", [])
    assert "LD_LIBRARY_PATH" not in environment and "PYTHONPYCACHEPREFIX" not in environment
    (prefix / "b" / "site" / slots.LIBRARIES).mkdir()
    client = slots.client_of(prefix, "b") | {"bytecode": False}
    slots.write_json(prefix / "b" / slots.CLIENT, client)
    _, environment = command(prefix, "b", [])
    assert environment["LD_LIBRARY_PATH"].endswith("site/shared-libraries")
    assert environment["PYTHONPYCACHEPREFIX"] == "/var/cache/bramble/b"


def test_root_runs_no_bytecode_that_the_service_could_have_written(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upgrade's unit and `sudo bramble-edge` are root; the cache is the service user's."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    prefix = two(tmp_path, state)
    slots.write_json(prefix / "b" / slots.CLIENT, slots.client_of(prefix, "b") | {"bytecode": False})
    _, environment = command(prefix, "b", ["upgrade"])
    assert "PYTHONPYCACHEPREFIX" not in environment
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"


def test_what_comes_before_the_agent_loads_no_numpy(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state)
    assert command(prefix, "b", ["enrol", "--wait", "60"])[0][5] == "edge_client.first_boot"
    assert command(prefix, "b", ["run"])[0][5] == command(prefix, "b", [])[0][5] == "edge_client.cli"
    code = "import edge_client.first_boot, edge_client.enrolment.enrol, sys; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_client_for_another_python_is_said(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state)
    slots.write_json(prefix / "b" / slots.CLIENT, slots.client_of(prefix, "b") | {"python": "3.9"})
    with pytest.raises(slots.SlotError, match=r"this client is for Python 3\.9, the system has 3\."):
        command(prefix, "b", [])


def test_a_start_that_is_not_online_in_time_is_ended_and_counted(tmp_path: Path, state: Path) -> None:
    """The alarm outlives the exec: a client that hangs is ended by the kernel, and the one before is back."""
    prefix = two(tmp_path, state, "import threading\nthreading.Event().wait(60)\n")
    for start in (1, 2, 3):
        done = launch(prefix, state, BRAMBLE_SERVICE="1")
        assert (done.returncode, trial(state)["starts"]) == (-signal.SIGALRM, start)
    done = launch(prefix, state, BRAMBLE_SERVICE="1")
    assert (json.loads(done.stdout)["version"], trial(state)["state"]) == ("1.0", "failed")


def test_a_client_that_crashes_is_left_after_three_starts(tmp_path: Path, state: Path) -> None:
    prefix = two(tmp_path, state, "raise SystemExit('broken build')\n")
    codes = [launch(prefix, state, BRAMBLE_SERVICE="1").returncode for _ in range(4)]
    assert codes == [1, 1, 1, 0]
