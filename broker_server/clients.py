"""Edge clients as processes on this machine, for the demonstration: the real program, not a model of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_S = 15.0  # a client that trains stops between two batches


class ClientProcesses:
    """Starts one ``bramble-edge run`` for each settings file, and stops them on leaving."""

    def __init__(self, settings: Sequence[Path]) -> None:
        self._settings = tuple(settings)
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        for path in self._settings:
            self.start(path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            if process.poll() is None:
                process.kill()
                process.wait()

    def start(self, settings: Path) -> subprocess.Popen[bytes]:
        """Start one client; its log lies beside its settings."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        with (settings.parent / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edge_client.cli", "run", "--config", str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self._processes[settings] = process
        return process

    @property
    def count(self) -> int:
        """Number of clients."""
        return len(self._settings)

    def failed(self) -> dict[Path, int]:
        """Clients that ended by themselves, with their exit status."""
        return {
            path: process.returncode
            for path, process in self._processes.items()
            if process.poll() is not None
        }
