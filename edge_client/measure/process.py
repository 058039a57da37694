"""The child that measures, as its parent sees it: started, looked at, ended with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from compression.records import RecordError, dumps, loads
from edge_client.measure.children import ROOT
from edge_client.measure.errors import MeasureError, UnrunnableError
from edge_client.wire.measurement import Measurement, MeasurePlan

STARTS_S = 180.0  # for starts, loads and warm-ups on the slowest board
MAX_OUTPUT_BYTES = 1 << 20
COMMAND = (sys.executable, "-m", "edge_client.measure.child")


class MeasuringProcess:
    """One child at work on a file.

    Args:
        model: the file.
        plan: how it is measured.
        limit_s: after which the child is ended; by default what the plan needs on the slowest board.
        command: of the child; another one in tests.
    """

    def __init__(
        self,
        model: Path,
        plan: MeasurePlan,
        *,
        limit_s: float | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.limit_s = STARTS_S + 4 * plan.within_s if limit_s is None else limit_s
        self._ends = time.monotonic() + self.limit_s
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - see `end`
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._child = subprocess.Popen(
                [*command, str(model), dumps(plan).decode(), f"{self.limit_s:g}"],
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=self._err,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # a group of its own: its cold starts end with it
            )
        except OSError as exc:
            self._close()
            raise MeasureError(f"the model cannot be measured: {exc.strerror or exc}") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def result(self) -> Measurement | None:
        """What it came to; None while it is at work.

        Raises:
            UnrunnableError: the model needs ops that this device does not have.
            MeasureError: it cannot be measured, crashed the runtime, or took too long.
        """
        if self._child.poll() is None:
            if time.monotonic() < self._ends:
                return None
            self.end()
            raise MeasureError(f"no result within {self.limit_s:g} s")
        try:
            return self._parsed()
        finally:
            self.end()

    def end(self) -> None:
        """Kill it with all it started, if it is still there."""
        if self._out.closed:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._close()

    def _close(self) -> None:
        self._out.close()
        self._err.close()

    def _parsed(self) -> Measurement:
        code = self._child.returncode
        if code == -signal.SIGALRM:
            raise MeasureError(f"no result within {self.limit_s:g} s")
        if code < 0:
            raise MeasureError(f"the model crashes the runtime ({signal.Signals(-code).name})")
        self._out.seek(0)
        line = (self._out.read(MAX_OUTPUT_BYTES).splitlines() or [b""])[-1]
        try:
            return loads(Measurement, line, max_bytes=MAX_OUTPUT_BYTES)
        except RecordError as exc:
            raise self._error(line) from exc

    def _error(self, line: bytes) -> MeasureError:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(line)
            return (UnrunnableError if said["refused"] else MeasureError)(str(said["error"]))
        self._err.seek(0)
        lines = self._err.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace").strip().splitlines()
        return MeasureError(
            f"the model cannot be measured: {lines[-1][:300] if lines else 'it said nothing'}"
        )
