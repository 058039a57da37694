"""What systemd would hear, on a real socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_client.sd_notify import ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def heard(manager: socket.socket) -> list[str]:
    manager.setblocking(False)
    messages = []
    try:
        while True:
            messages.append(manager.recv(4096).decode())
    except BlockingIOError:
        return messages


def test_ready_status_and_stopping_are_heard(manager: socket.socket) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager.getsockname()})
    service.ready()
    service.status("two\nlines")
    service.stopping()
    assert heard(manager) == ["READY=1", "STATUS=two lines", "STOPPING=1"]


def test_the_watchdog_hears_three_times_a_time_out(manager: socket.socket) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "30000000"})
    for now in (0.0, 9.9, 10.0, 19.9, 20.0, 20.1):
        service.alive(now)
    assert heard(manager) == ["WATCHDOG=1"] * 3


def test_a_start_that_goes_on_asks_for_more_time(manager: socket.socket) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager.getsockname()})
    for now in (0.0, 99.9, 100.0, 150.0):
        service.starting(now)
    assert heard(manager) == ["EXTEND_TIMEOUT_USEC=300000000"] * 2


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "nonsense"}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}],
)
def test_no_watchdog_of_this_process_no_beats(manager: socket.socket, environment: dict[str, str]) -> None:
    assert os.getpid() != 1
    ServiceManager({"NOTIFY_SOCKET": manager.getsockname(), **environment}).alive(0.0)
    assert heard(manager) == []


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all"])
def test_a_manager_that_cannot_be_told_is_no_error(address: str) -> None:
    ServiceManager({"NOTIFY_SOCKET": address}).ready()


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0bramble-test-{os.getpid()}-{threading.get_ident()}")
        listener.settimeout(5)
        name = listener.getsockname().decode()
        ServiceManager({"NOTIFY_SOCKET": "@" + name[1:]}).ready()
        assert listener.recv(100) == b"READY=1"
