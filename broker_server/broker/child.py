"""A child process that is started, waited for, watched, brought back when it dies, and stopped.

One thread does it all for one child. It must: Linux sends the parent-death signal when the *thread*
that forked ends, so the thread that starts the child lives as long as the child does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker_server.broker import exec_child
from broker_server.broker.base import BrokerError

log = logging.getLogger(__name__)

START_DEADLINE_S = 20.0  # 0.1 s for mosquitto and 0.8 s for amqtt when idle; a busy 2-core machine needs more
STOP_DEADLINE_S = 10.0  # mosquitto writes its database when it is told to stop
POLL_S = 0.05
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.1, 5.0
STEADY_S = 10.0  # a child that ran this long starts again without back-off
LOG_TAIL_LINES = 12
MAX_LOG_BYTES = 5_000_000  # one old file is kept beside the current one


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the child runs as, when this process is root."""

    name: str
    uid: int
    gid: int


class ChildProcess:
    """Keeps one program running until `stop`."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        *,
        ready: Callable[[], bool],
        log_file: Path,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
        tick: Callable[[], None] | None = None,
        deadline_s: float = START_DEADLINE_S,
    ) -> None:
        """`command` is asked before every start; `tick` runs in the watching thread a few times a second."""
        self.name, self.log_file = name, log_file
        self._command, self._ready, self._account, self._tick = command, ready, account, tick
        self._environment = {**os.environ, **(environment or {})}
        self._deadline_s = deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._started = 0.0

    @property
    def pid(self) -> int | None:
        """Process id of the running child."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Return once it is ready; raise `BrokerError` with the end of its log otherwise."""
        if self._thread is not None:
            raise BrokerError(f"{self.name} is already started")
        self._stop.clear()
        outcome: queue.SimpleQueue[BrokerError | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._watch, args=(outcome,), name=f"{self.name}-watch", daemon=True
        )
        self._thread.start()
        try:
            failure = outcome.get()
        except BaseException:  # Ctrl-C while it starts: leave nothing behind
            self.stop()
            raise
        if failure is not None:
            self.stop()
            raise failure

    def stop(self) -> None:
        """End the child: SIGTERM, then SIGKILL. Does nothing where it is not started."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def signal_reload(self) -> None:
        """Send SIGHUP to the running child."""
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGHUP)  # does nothing once it has ended

    def log_tail(self) -> str:
        """The last lines of its log, for an error message."""
        try:
            lines = self.log_file.read_text("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _watch(self, outcome: queue.SimpleQueue[BrokerError | None]) -> None:
        failure: BrokerError | None = BrokerError(f"{self.name} could not be started")
        try:
            self._launch()
            self._await_ready()
            failure = None
        except BrokerError as exc:
            failure = exc
        except OSError as exc:
            failure = BrokerError(f"{self.name}: {exc}")
        finally:  # whatever happened, `start` waits for this
            if failure is not None:
                self._end()
            outcome.put(failure)
        if failure is None:
            self._keep_running()

    def _keep_running(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while self._run_until_exit() >= 0:
            if self._ran_s >= STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            log.warning("%s ended (%s), starting it again in %.1f s", self.name, self._exit_text(), backoff_s)
            if self._stop.wait(backoff_s):
                break
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
            try:
                self._launch()
            except OSError as exc:
                log.error("%s cannot be started again: %s", self.name, exc)
        self._end()

    def _launch(self) -> None:
        self._rotate_log()
        account = self._account
        head = [sys.executable, "-I", exec_child.__file__, str(os.getpid())]
        head += [str(account.uid), str(account.gid)] if account else ["-", "-"]
        self._started = time.monotonic()
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [*head, *self._command()],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the server, which stops its broker last
            )

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self._deadline_s
        while not self._ready():
            if self._process is None or self._process.poll() is not None:
                raise BrokerError(self._story(f"{self.name} ended at once ({self._exit_text()})"))
            if time.monotonic() > deadline:
                raise BrokerError(self._story(f"{self.name} did not listen within {self._deadline_s:g} s"))
            if self._stop.wait(POLL_S):
                raise BrokerError(f"{self.name} was stopped while it started")

    def _run_until_exit(self) -> float:
        """Wait until the child ends by itself (its running time) or until `stop` (negative)."""
        while not self._stop.is_set():
            if self._process is None or self._process.poll() is not None:
                return self._ran_s
            if self._tick is not None:
                self._tick()
            self._stop.wait(POLL_S)
        return -1.0

    @property
    def _ran_s(self) -> float:
        return time.monotonic() - self._started

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def _exit_text(self) -> str:
        code = self._process.poll() if self._process is not None else None
        return "not running" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"

    def _story(self, what: str) -> str:
        tail = self.log_tail()
        return f"{what}; its log {self.log_file} ends:\n{tail}" if tail else f"{what}; its log is empty"

    def _rotate_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > MAX_LOG_BYTES:
                self.log_file.replace(self.log_file.with_name(self.log_file.name + ".1"))
