"""What every system is measured with: processes, bytes counted, marks at the rounds' ends.

A server appends one line of JSON to a file of marks when a round is over: ``{"round": 1, "at": seconds of
time.monotonic, "updates": how many}``. The clocks of all processes of a machine agree.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.peers.counting import STOP_S, Counted
from benchmarks.peers.network import Network
from benchmarks.peers.plan import Plan, Report, SystemResult
from benchmarks.peers.setup import on_cores
from benchmarks.processes import Sampler, tree

LOOK_S = 0.1  # between two looks at the marks
SAMPLE_S = 0.5
START_S = 120.0  # TensorFlow is loaded on a busy machine
LOG_LINES = 3  # of a failed process, in the error


class Processes:
    """Started processes, each with a log of its own; all are ended on leaving, the last one first."""

    def __init__(self, folder: Path, network: Network) -> None:
        self._folder, self._network = folder, network
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        started = [process for process, _log in reversed(self._started)]
        everyone = [pid for process in started for pid in tree(process.pid)]  # Flower's start their own
        for process in started:
            process.terminate()
        until = time.monotonic() + STOP_S
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        for pid in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in started:
            process.wait()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        at: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start one at the server's place or `at` a client's; what it says goes to ``NAME.log``."""
        log, cores = self._folder / f"{name}.log", self._network.setup.cores
        with log.open("ab") as file, on_cores(cores.systems if cores else None):
            process = subprocess.Popen(
                self._network.placed(command, at),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C is for us, who end it in good order
            )
        self._started.append((process, log))
        return process

    def check(self, done: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        """Raise `BenchmarkError` with the end of its log for a process that has ended badly."""
        for process, log in self._started:
            if process.poll() is not None and not (process in done and process.returncode == 0):
                lines = log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]
                said = " / ".join(line.strip() for line in lines)[-400:] or "it said nothing"
                raise BenchmarkError(f"{log.stem} ended with status {process.returncode}: {said}")


def wait_for_facts(file: Path, processes: Processes) -> dict[str, Any]:
    """What a server writes once it listens.

    Raises:
        BenchmarkError: a process ended, or it took too long.
    """
    until = time.monotonic() + START_S
    while not file.exists():
        processes.check()
        if time.monotonic() > until:
            raise BenchmarkError(f"the server did not start within {START_S:g} s")
        time.sleep(0.05)
    return dict(json.loads(file.read_text()))


def write_mark(marks: Path, number: int, updates: int) -> None:
    """Say that a round is over."""
    with marks.open("a") as file:
        file.write(json.dumps({"round": number, "at": time.monotonic(), "updates": updates}) + "\n")


def read_marks(marks: Path) -> list[dict[str, Any]]:
    """The rounds that are over; a line that is being written is left for the next time."""
    if not marks.exists():
        return []
    return [json.loads(line) for line in marks.read_text().splitlines(keepends=True) if line.endswith("\n")]


def watch_rounds(
    name: str,
    plan: Plan,
    marks: Path,
    processes: Processes,
    report: Report,
    *,
    done: Sequence[subprocess.Popen[bytes]] = (),
) -> list[dict[str, Any]]:
    """Wait for the last round's end.

    Raises:
        BenchmarkError: a process ended, a round lacked a client, or it took too long.
    """
    until = time.monotonic() + plan.timeout_s
    while len(found := read_marks(marks)) < plan.all_rounds:
        processes.check(done)
        if time.monotonic() > until:
            raise BenchmarkError(
                f"{name}: {len(found)} of {plan.all_rounds} rounds were done after {plan.timeout_s:g} s; "
                "allow more with --timeout"
            )
        report(f"{name}: round {len(found) + 1} of {plan.all_rounds}", len(found) / plan.all_rounds)
        time.sleep(LOOK_S)
    lacking = [mark["round"] for mark in found if mark["updates"] < plan.clients]
    if lacking:
        raise BenchmarkError(f"{name}: round {lacking[0]} closed without all {plan.clients} clients")
    return found


def summarise(
    name: str,
    plan: Plan,
    started: float,
    marks: Sequence[Mapping[str, Any]],
    counted: Counted,
    sampler: Sampler,
    *,
    note: str,
    mqtt: bool = True,
) -> SystemResult:
    """The figures of one system; `sampler` knows ``server``, perhaps ``broker``, and each ``client-N``."""
    ends = [float(mark["at"]) for mark in marks[plan.settle - 1 : plan.all_rounds]]
    rounds = len(ends) - 1
    up, down, publishes = counted.between(ends[0], ends[-1])
    first_up, first_down, _ = counted.between(started, ends[0])
    clients = [f"client-{number}" for number in range(plan.clients)]
    peaks = [sampler.peak(client) for client in clients]
    cpu = {
        each: seconds / rounds
        for each in sampler.roots
        if (seconds := sampler.cpu_s(each, ends[0], ends[-1])) is not None
    }
    server, broker = sampler.peak("server"), sampler.peak("broker") if "broker" in sampler.roots else None
    share = plan.clients * rounds
    durations = tuple(later - earlier for earlier, later in itertools.pairwise(ends))
    return SystemResult(
        name=name,
        round_s=statistics.median(durations),
        rounds_s=durations,
        settle=plan.settle,
        settled_s=ends[0] - started,
        bytes_up_per_client_round=up / share,
        bytes_down_per_client_round=down / share,
        bytes_up_once_per_client=first_up / plan.clients,
        bytes_down_once_per_client=first_down / plan.clients,
        messages_per_s=publishes / (ends[-1] - ends[0]) if mqtt and counted.messages else None,
        client_pss_mb=statistics.median(peak.pss_mb for peak in peaks),
        client_rss_mb=statistics.median(peak.rss_mb for peak in peaks),
        client_processes=max(peak.processes for peak in peaks),
        client_cpu_s_per_round=statistics.mean(cpu[client] for client in clients) if cpu else None,
        server_pss_mb=server.pss_mb + (broker.pss_mb if broker else 0.0),
        server_rss_mb=server.rss_mb + (broker.rss_mb if broker else 0.0),
        server_cpu_s_per_round=cpu.get("server"),
        broker_pss_mb=broker.pss_mb if broker else None,
        broker_cpu_s_per_round=cpu.get("broker"),
        note=note,
    )
