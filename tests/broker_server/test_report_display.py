"""The live view: one line for what happened, one bottom line for what goes on."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import pytest
from rich.console import Console

from broker_server.report.console import open_console
from broker_server.report.display import RoundDisplay
from broker_server.report.observer import (
    DeviceJoined,
    DeviceLeft,
    Note,
    NullObserver,
    Observers,
    ReleaseResult,
    RoundFinished,
    RoundStarted,
    RunObserver,
    UpdateReceived,
)
from broker_server.report.rounds import RoundFigures
from compression.records import RecordError, to_plain
from tests.broker_server.report_samples import NAMES, sample_round

EVENTS = (
    DeviceJoined("device-1", 120, "ai-edge-litert 2.1", "aarch64"),
    RoundStarted(1, ("device-1",), 15),
    UpdateReceived(1, "device-1", 120, 8000),
    RoundFinished(sample_round(1)),
    DeviceLeft("device-1", "last will"),
    ReleaseResult("device-1", 3, "activated", "", 0.961, 0.08),
    Note("done"),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Recorder(NullObserver):
    def __init__(self) -> None:
        self.seen: list[object] = []

    def __getattribute__(self, name: str) -> object:
        if name in {event.TAG for event in EVENTS}:
            return self.seen.append
        return super().__getattribute__(name)


def send(observer: RunObserver, *events: object) -> None:
    for event in events:
        getattr(observer, event.TAG)(event)  # type: ignore[attr-defined]


@pytest.fixture
def plain() -> tuple[RoundDisplay, io.StringIO]:
    stream = io.StringIO()
    return RoundDisplay(open_console(stream, width=80), clock=lambda: 12.0), stream


def bottom(display: RoundDisplay) -> str:
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as shown:
        console.print(display)
    return shown.get().strip()


def test_every_event_reaches_a_log_as_readable_lines(plain: tuple[RoundDisplay, io.StringIO]) -> None:
    display, stream = plain
    with display:
        send(display, *EVENTS)
    assert stream.getvalue().splitlines() == [
        "   0.0 s + device-1 joined: 120 training examples, aarch64, ai-edge-litert 2.1",
        "   0.0 s   Round 1: loss 0.529, accuracy 0.756, 4 of 4, up 31.7 kB, down 970 kB",
        "   0.0 s - device-1 left: last will",
        "   0.0 s + device-1 activated model version 3, accuracy 0.961 on its own data, 0.080 ms an answer",
        "   0.0 s   done",
    ]


def test_trouble_is_marked(plain: tuple[RoundDisplay, io.StringIO]) -> None:
    display, stream = plain
    send(
        display,
        RoundFinished(sample_round(6)),
        DeviceJoined("device-2", 1, returned=True),
        ReleaseResult("device-2", 3, "rolled-back", "too slow"),
        Note("broker restarted", "warning"),
        RoundFinished(RoundFigures(7, federated_accuracy=0.5)),
    )
    text = stream.getvalue()
    assert "! device-2 was not counted: killed mid-round, came back after the deadline" in text
    assert "+ device-2 is back: 1 training example\n" in text
    assert "! device-2 rolled back model version 3: too slow" in text
    assert "! broker restarted" in text
    assert "Round 7: accuracy on devices 0.500, 0 of 0, up not measured, down not measured" in text


def test_the_bottom_line_follows_the_round(plain: tuple[RoundDisplay, io.StringIO]) -> None:
    display, _ = plain
    assert "Waiting for devices, 0 devices online" in bottom(display)
    send(display, *(DeviceJoined(name, 10) for name in NAMES), RoundStarted(3, NAMES, 15))
    assert "Round 3 of 15, 4 devices online, 0 of 4 updates in, training now: device-1" in bottom(display)
    send(display, UpdateReceived(3, "device-1", 10, 100), DeviceLeft("device-2"))
    assert "3 devices online, 1 of 4 updates in, training now: device-3, device-4, 0.0 s" in bottom(display)
    send(display, RoundFinished(sample_round(3)))
    assert "Round 3 of 15, 3 devices online, 0.0 s" in bottom(display)
    send(display, RoundStarted(4, tuple(f"pi-{index}" for index in range(9))))
    assert "training now: pi-0, pi-1, pi-2, pi-3, pi-4, pi-5 and 3 more" in bottom(display)


def test_a_terminal_shows_the_bottom_line_and_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with RoundDisplay(open_console(stream, width=80), clock=lambda: 0.0) as display:
        send(display, *EVENTS)
    text = stream.getvalue()
    assert "Waiting for devices" in text
    assert text.index("\x1b[?25l") < text.rindex("\x1b[?25h")  # the cursor comes back


def test_foreign_text_cannot_steer_the_terminal(plain: tuple[RoundDisplay, io.StringIO]) -> None:
    display, stream = plain
    send(display, Note("\x1b]0;owned\x07 [red]plain[/red]"), DeviceLeft("pi", "\x1b[2J"))
    assert not set(stream.getvalue()) & {"\x1b", "\x07"}
    assert "[red]plain[/red]" in stream.getvalue()
    assert "\x1b" not in bottom(display)


def test_many_threads_may_report(plain: tuple[RoundDisplay, io.StringIO]) -> None:
    display, stream = plain

    def report(start: int) -> None:
        for index in range(start, start + 25):
            send(display, DeviceJoined(f"pi-{index}", 1), UpdateReceived(1, f"pi-{index}", 1, 1))

    threads = [threading.Thread(target=report, args=(25 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stream.getvalue().splitlines()) == 100
    assert "100 devices online" in bottom(display)


@pytest.mark.parametrize("make", [NullObserver, lambda: Observers([]), lambda: Observers([NullObserver()])])
def test_whoever_does_not_care_takes_every_event(make: Callable[[], RunObserver]) -> None:
    send(make(), *EVENTS)


def test_several_observers_are_told_in_order() -> None:
    one, other = Recorder(), Recorder()
    send(Observers([one, other]), *EVENTS)
    assert one.seen == other.seen == list(EVENTS)


def test_events_are_checked_and_become_json() -> None:
    assert to_plain(EVENTS[1]) == {"type": "round_started", "round": 1, "cohort": ["device-1"], "rounds": 15}
    with pytest.raises(RecordError, match="device"):
        DeviceLeft("../etc")
