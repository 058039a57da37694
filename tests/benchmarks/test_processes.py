"""Memory, processor time and bytes of real processes; a relay with a real connection through it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.peers.network import Loopback
from benchmarks.peers.plan import Plan
from benchmarks.peers.rig import Processes, read_marks, watch_rounds, write_mark
from benchmarks.processes import Sampler, tree, usage
from benchmarks.relay import PublishCounter

HOLDS_50_MB = "b = bytearray(50_000_000); b[::4096] = b'x' * len(b[::4096]); print(1, flush=True); input()"


def test_memory_of_a_process_and_of_its_children() -> None:
    parent = (
        "import subprocess, sys; "
        f"p = subprocess.Popen([sys.executable, '-c', {HOLDS_50_MB!r}], stdin=subprocess.PIPE); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the child has its memory
        alone, both = usage([process.pid]), usage(tree(process.pid))
        process.communicate(b"\n")
    assert both.processes == 2 and alone.processes == 1
    assert 45 < both.pss_mb - alone.pss_mb < 80
    assert both.rss_mb >= both.pss_mb > 50


def test_a_process_that_is_gone_takes_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    gone = usage([process.pid])
    assert (gone.pss_mb, gone.cpu_s) == (0.0, 0.0)


def test_the_sampler_knows_processor_time() -> None:
    with Sampler({"me": os.getpid()}, every_s=0.02) as sampler:
        start = time.monotonic()
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        sampler.look()
    taken = sampler.cpu_s("me", start, time.monotonic())
    assert taken is not None and 0.1 <= taken < 5
    assert sampler.cpu_s("me", start, start + 0.05) is None  # too short to know
    assert sampler.peak("me").pss_mb > 1


def test_processor_time_of_one_that_has_ended_is_not_given_back() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(1, flush=True)\ninput()"
    with (
        subprocess.Popen(
            [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
        Sampler({"it": process.pid}, every_s=0.01) as sampler,
    ):
        assert process.stdout is not None
        start = time.monotonic()
        process.stdout.readline()
        sampler.look()
        process.communicate(b"\n")
        sampler.look()
        taken = sampler.cpu_s("it", start, time.monotonic())
    assert taken is not None and taken > 0.05


def test_publish_packets_are_counted_however_they_are_cut() -> None:
    publish = bytes([0x32, 0x85, 0x01]) + bytes(133)
    stream = bytes([0x10, 2, 0, 0]) + publish + bytes([0x40, 2, 0, 1]) + publish + bytes([0xC0, 0])
    for size in (1, 2, 7, len(stream)):
        counter = PublishCounter()
        for start in range(0, len(stream), size):
            counter.feed(stream[start : start + size])
        assert counter.count == 2


def test_the_relay_counts_both_directions() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            received = b""
            while len(received) < 1000:
                received += connection.recv(1000)
            connection.sendall(bytes(300))

    server = threading.Thread(target=answer)
    server.start()
    start = time.monotonic()
    with Loopback().counted(listener.getsockname()[1]) as relay:
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            client.sendall(bytes(1000))
            assert len(client.recv(300, socket.MSG_WAITALL)) == 300
        server.join()
    listener.close()
    assert relay.between(start - 1, time.monotonic() + 1)[:2] == (1000, 300)


def test_a_process_that_fails_is_said_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path, Loopback()) as processes:
        process = processes.start("broken", [sys.executable, "-c", "raise SystemExit('out of ideas')"])
        process.wait()
        with pytest.raises(BenchmarkError, match="broken ended with status 1: out of ideas"):
            processes.check()


def test_rounds_that_lack_a_client_or_never_end_are_errors(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    assert read_marks(marks) == []
    write_mark(marks, 1, 2)
    plan = Plan(clients=2, rounds=1, timeout_s=0.0)
    with Processes(tmp_path, Loopback()) as processes:
        with pytest.raises(BenchmarkError, match="1 of 2 rounds were done"):
            watch_rounds("x", plan, marks, processes, lambda _what, _share: None)
        write_mark(marks, 2, 1)
        with pytest.raises(BenchmarkError, match="round 2 closed without all 2 clients"):
            watch_rounds("x", plan, marks, processes, lambda _what, _share: None)
