"""First-boot truth: each step that a device takes, told to the server and to a file that people can read.

The file lies on the boot partition, which every PC can read when the card is pulled out of a Pi that does
not answer. One line a step: ``uptime_s time step state detail``. Neither way may stop a device: what
cannot be written or sent is logged and left out.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from edge_client.config import EdgeConfig
from edge_client.device.status import append_status, status_line
from edge_client.enrolment.client import EnrolmentClient
from edge_client.enrolment.errors import EnrolmentError
from edge_client.files import write_atomically
from edge_client.wire.enrolment import State, Step, StepReport

log = logging.getLogger(__name__)

STATUS_FILE_VARIABLE = "BRAMBLE_STATUS_FILE"
DEFAULT_STATUS_FILE = Path("/boot/firmware/bramble/status.log")
MAX_STATUS_BYTES = 64 * 1024  # a Pi that restarts for weeks fills no boot partition


def status_file(config: EdgeConfig) -> Path | None:
    """Where the lines go: the environment says, or the settings, or there is a boot partition."""
    if named := os.environ.get(STATUS_FILE_VARIABLE):
        return Path(named)
    if config.enrolment is not None and config.enrolment.status_file is not None:
        return Path(config.enrolment.status_file)
    return DEFAULT_STATUS_FILE if DEFAULT_STATUS_FILE.parent.is_dir() else None


class Steps:
    """Tells one device's steps, to both; the server only where it can be reached."""

    def __init__(self, config: EdgeConfig, client: EnrolmentClient | None) -> None:
        self._name, self._file, self._client = config.name, status_file(config), client

    def note(self, step: Step, state: State, detail: str = "") -> StepReport:
        """A line in the file, and nothing sent."""
        report = StepReport(self._name, step, state, _printable(detail), round(uptime_s(), 1))
        log.info("%s %s %s", step, state, report.detail)
        if self._file is not None:
            try:
                _append(self._file, status_line(step, state, report.detail))
            except OSError as exc:
                log.info("%s: %s", self._file, exc.strerror or exc)
        return report

    def tell(self, step: Step, state: State, detail: str = "", *, enrolled: bool) -> bool:
        """A line in the file, and a report to the server if that can be done now; whether it was."""
        report = self.note(step, state, detail)
        if self._client is None:
            return False
        try:
            self._client.report(report, enrolled=enrolled)
        except EnrolmentError as exc:
            log.info("the server was not told: %s", exc)
            return False
        return True


def uptime_s() -> float:
    """Seconds since the machine was switched on."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_STATUS_BYTES:
        newest = path.read_bytes()[-MAX_STATUS_BYTES // 2 :].partition(b"\n")[2]
        write_atomically(path, newest, mode=0o644)
    append_status(path, [line])


def _printable(text: str) -> str:
    """One line of ASCII, short enough for a report."""
    return " ".join(text.encode("ascii", "replace").decode().split())[:200]
