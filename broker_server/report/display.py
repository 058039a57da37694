"""The live view of a run: what has happened as lines, what is going on as one line at the bottom.

On a terminal the bottom line is redrawn in place and the lines scroll above it; anywhere else there are
only the lines, each printed once and readable in a log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from broker_server.report import words
from broker_server.report.console import foreign
from broker_server.report.observer import (
    DeviceJoined,
    DeviceLeft,
    Note,
    ReleaseResult,
    RoundFinished,
    RoundStarted,
    UpdateReceived,
)
from broker_server.report.rounds import RoundFigures

REFRESH_HZ = 8.0  # a spinner looks alive from about 8 steps a second
NAMED_DEVICES = 6  # of those that are training, on the bottom line


class RoundDisplay:
    """A `RunObserver` that shows the run on a console; enter it before the run, leave it after.

    Give it a console on standard error where standard output carries JSON.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._online: dict[str, int] = {}  # device: training examples
        self._training: list[str] = []
        self._cohort = 0
        self._received = 0
        self._stage = "Waiting for devices"
        self._live: Live | None = None

    def __enter__(self) -> RoundDisplay:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                self,
                console=self._console,
                refresh_per_second=REFRESH_HZ,
                transient=True,
                redirect_stdout=not self._console.stderr,  # standard output may be carrying JSON
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The bottom line."""
        now = self._clock()
        with self._lock:
            line = self._bottom_line(now)
        yield Text()
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Spinner("line").render(now), line)
        yield grid

    def _bottom_line(self, now: float) -> Text:
        line = Text.assemble((self._stage, "title"), f", {words.plural(len(self._online), 'device')} online")
        if self._cohort:
            line.append(f", {self._received} of {self._cohort} updates in")
        if self._training:
            more = len(self._training) - NAMED_DEVICES
            line.append(f", training now: {', '.join(self._training[:NAMED_DEVICES])}")
            line.append(f" and {more} more" if more > 0 else "")
        return line.append(f", {words.seconds(now - self._start)}", style="quiet")

    # ---- events ----

    def device_joined(self, event: DeviceJoined, /) -> None:
        """One line for each device that comes."""
        with self._lock:
            self._online[event.device] = event.examples
        place = ", ".join(part for part in (event.architecture, event.runtime) if part)
        how = "is back" if event.returned else "joined"
        text = f"{event.device} {how}: {words.plural(event.examples, 'training example')}"
        self._say("+", "good", f"{text}, {place}" if place else text)

    def device_left(self, event: DeviceLeft, /) -> None:
        """One line for each device that goes."""
        with self._lock:
            self._online.pop(event.device, None)
            self._stop_training(event.device)
        self._say("-", "neutral", f"{event.device} left" + (f": {event.reason}" if event.reason else ""))

    def round_started(self, event: RoundStarted, /) -> None:
        """Only the bottom line changes; the round has its line when it is over."""
        with self._lock:
            self._stage = f"Round {event.round}" + (f" of {event.rounds}" if event.rounds else "")
            self._training = list(event.cohort)
            self._cohort, self._received = len(event.cohort), 0

    def update_received(self, event: UpdateReceived, /) -> None:
        """Only the bottom line changes."""
        with self._lock:
            self._stop_training(event.device)
            self._received += 1

    def _stop_training(self, device: str) -> None:
        if device in self._training:
            self._training.remove(device)

    def round_finished(self, event: RoundFinished, /) -> None:
        """The round's line, and one for each device that was not counted."""
        with self._lock:
            self._training, self._cohort = [], 0
        self._say(" ", "", _round_line(event.figures))
        for name, reason in event.figures.dropped.items():
            self._say("!", "bad", f"{name} was not counted: {reason}")

    def release_result(self, event: ReleaseResult, /) -> None:
        """One line for each device."""
        good = event.verdict == "activated"
        text = f"{event.device} {event.verdict.replace('-', ' ')} model version {event.version}"
        if event.accuracy is not None:
            text += f", accuracy {words.share(event.accuracy)} on its own data"
        if event.latency_p50_ms is not None:
            text += f", {words.milliseconds(event.latency_p50_ms)} an answer"
        text += f": {event.reason}" if event.reason else ""
        self._say("+" if good else "!", "good" if good else "bad", text)

    def note(self, event: Note, /) -> None:
        """The note as a line; an information is also the stage that the bottom line names."""
        warning = event.level == "warning"
        if not warning:
            with self._lock:
                self._stage = foreign(event.text, self._console).plain
        self._say("!" if warning else " ", "bad" if warning else "", event.text)

    def _say(self, mark: str, style: str, text: str) -> None:
        passed = f"{self._clock() - self._start:6.1f} s "
        line = Text.assemble((passed, "quiet"), (f"{mark} ", style))
        self._console.print(line.append_text(foreign(text, self._console)), soft_wrap=True)


def _round_line(figures: RoundFigures) -> str:
    """Short enough for 80 columns; the closing report has the rest."""
    quality = f"loss {words.loss(figures.loss)}, accuracy {words.share(figures.accuracy)}"
    if figures.accuracy is None:
        quality = f"accuracy on devices {words.share(figures.federated_accuracy)}"
    asked = len(figures.clients) + len(figures.dropped)
    traffic = f"up {words.size(figures.bytes_up)}, down {words.size(figures.bytes_down)}"
    return f"Round {figures.round}: {quality}, {len(figures.clients)} of {asked}, {traffic}"
