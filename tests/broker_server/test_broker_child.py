"""A watched child process, with small programs in the place of brokers."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from broker_server.broker import child as child_module
from broker_server.broker import exec_child
from broker_server.broker.base import BrokerError
from broker_server.broker.child import ChildProcess
from tests.broker_server.mqtt_peer import poll

Make = Callable[..., ChildProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Children that run a line of Python and are ready once they wrote a file."""
    made: list[ChildProcess] = []

    def new(script: str, **options: object) -> ChildProcess:
        script = script.replace("READY", f"open({str(tmp_path / 'ready')!r}, 'a').write('x')")
        options.setdefault("ready", (tmp_path / "ready").exists)
        child = ChildProcess(
            "the child",
            lambda: [sys.executable, "-c", script],
            log_file=tmp_path / "log",
            **options,  # type: ignore[arg-type]
        )
        made.append(child)
        return child

    yield new
    for child in made:
        child.stop()


def launches(tmp_path: Path) -> int:
    return len((tmp_path / "ready").read_text("ascii"))


def test_start_stop_start(make: Make) -> None:
    child = make("import time; READY; time.sleep(60)")
    for _ in range(2):
        assert child.pid is None
        child.start()
        assert child.pid is not None
        with pytest.raises(BrokerError, match="already started"):
            child.start()
        process = psutil.Process(child.pid)
        child.stop()
        assert not process.is_running()
    child.stop()


def test_one_that_never_listens(make: Make) -> None:
    child = make(
        "import time; print('hello', flush=True); time.sleep(60)", ready=lambda: False, deadline_s=1.0
    )
    with pytest.raises(BrokerError, match=r"did not listen within 1 s; its log .*log ends:\nhello"):
        child.start()
    assert child.pid is None


def test_one_that_ends_at_once(make: Make) -> None:
    with pytest.raises(BrokerError, match=r"ended at once \(exit code 3\); its log is empty"):
        make("raise SystemExit(3)").start()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    child = ChildProcess(
        "x", lambda: [str(tmp_path / "none")], ready=lambda: False, log_file=tmp_path / "log"
    )
    with pytest.raises(BrokerError, match="No such file or directory"):
        child.start()


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    child = ChildProcess("x", list, ready=lambda: True, log_file=tmp_path / "no" / "log")
    with pytest.raises(BrokerError, match=r"x: .*No such file"):
        child.start()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_ours_does_not_leave_start_waiting(make: Make) -> None:
    def broken() -> bool:
        raise LookupError("a bug")

    child = make("import time; time.sleep(60)", ready=broken)
    with pytest.raises(BrokerError, match="could not be started"):
        child.start()
    assert child.pid is None


def test_one_that_will_not_stop_is_killed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "STOP_DEADLINE_S", 0.2)
    child = make("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); READY; time.sleep(60)")
    child.start()
    process = psutil.Process(child.pid)
    child.stop()
    assert not process.is_running()


def test_a_crash_loop_slows_down_and_can_be_stopped(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(child_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(child_module, "MAX_BACKOFF_S", 0.04)
    child = make("READY; import time; time.sleep(0.2)")
    with caplog.at_level(logging.WARNING):
        child.start()
        poll(lambda: launches(tmp_path) >= 5, "five launches")
        child.stop()
    waits = [record.args[2] for record in caplog.records if record.args]  # type: ignore[index]
    assert waits[:4] == [0.01, 0.02, 0.04, 0.04]
    assert child.pid is None


def test_stopping_does_not_wait_for_the_back_off(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(child_module, "FIRST_BACKOFF_S", 60.0)
    child = make("READY; import time; time.sleep(0.1)")
    child.start()
    poll(lambda: "starting it again" in caplog.text, "the end of the child")
    began = time.monotonic()
    child.stop()
    assert time.monotonic() - began < 5


def test_a_long_log_is_put_aside(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "MAX_LOG_BYTES", 10)
    child = make("import time; print('first', 'x' * 20, flush=True); READY; time.sleep(60)")
    for _ in range(2):
        child.start()
        child.stop()
        (tmp_path / "ready").unlink()
    assert (tmp_path / "log.1").exists()
    assert (tmp_path / "log").read_text("ascii").count("first") == 1
    assert child.log_tail().startswith("first")


def test_a_child_of_a_parent_that_is_gone_already_does_not_start() -> None:
    """Between fork and prctl the parent may die; process 1 is never the parent here."""
    command = [sys.executable, "-I", exec_child.__file__, "1", "-", "-", "/bin/echo", "ran"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (result.returncode, result.stdout) == (0, "")
