"""A child that counts what passes between clients and server: a relay, or a look at a bridge's ports."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence

from benchmarks.errors import BenchmarkError
from benchmarks.processes import our_environment

STOP_S = 20.0


class Counted:
    """The counting child; `bins` are what passed, once it is closed.

    Attributes:
        host, port: where clients connect.
        messages: whether it knows MQTT's messages.
    """

    def __init__(self, command: Sequence[str], host: str, port: int | None) -> None:
        """A child that is to say its first line; None where that is the port at which clients connect."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=our_environment(),
            start_new_session=True,
        )
        self.bins: list[tuple[float, ...]] = []
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            self.kill()
            raise BenchmarkError("the child that counts bytes did not start")
        self.host, self.messages = host, port is None
        self.port = int(line) if port is None else port

    def close(self) -> None:
        """End it and read its counts."""
        answer, _ = self._process.communicate(timeout=STOP_S)
        self.bins = [tuple(row) for row in json.loads(answer)["bins"]]

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def between(self, start: float, end: float) -> tuple[int, int, int]:
        """Bytes up, bytes down and PUBLISH packets after one moment, up to another."""
        rows = [row for row in self.bins if start < row[0] <= end]
        up, down = (int(sum(row[column] for row in rows)) for column in (1, 2))
        return up, down, int(sum(row[3] for row in rows)) if self.messages else 0


@contextlib.contextmanager
def counting(command: Sequence[str], host: str, port: int | None = None) -> Iterator[Counted]:
    """Count while this is entered."""
    counted = Counted(command, host, port)
    try:
        yield counted
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
            counted.close()
        counted.kill()
