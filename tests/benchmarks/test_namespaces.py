"""Real namespaces, as root: what passes in them is counted, and nothing of them is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.errors import BenchmarkError
from benchmarks.namespaces import (
    FRAME_BYTES,
    HUB,
    PREFIX,
    SERVER,
    Namespaces,
    bits_per_second,
    client,
    listed,
    remove,
    require,
)
from benchmarks.peers.compare import in_folder
from benchmarks.peers.floor import run_bare
from benchmarks.peers.flower import listens
from benchmarks.peers.network import open_network
from benchmarks.peers.plan import Plan
from benchmarks.peers.setup import Setup, choose_cores
from benchmarks.ports import clients_total
from benchmarks.processes import our_environment
from benchmarks.transfer import BYTES
from tests.broker_server.mqtt_peer import poll

FLOAT32_BYTES = 4 * 71_489
HOLDS_A_NETWORK = """
import subprocess, sys
from benchmarks.peers.compare import ended_in_order
from benchmarks.peers.network import open_network
from benchmarks.peers.plan import Plan
with ended_in_order(), open_network(Plan(1, 1, network="namespaces")) as network:
    inside = subprocess.Popen(network.placed(["sleep", "600"], at=0))
    print(inside.pid, flush=True)
    inside.wait()
"""


def what_is_missing() -> str:
    """Why no namespaces can be had here; empty where they can."""
    try:
        with Namespaces(1) as made:
            made.slow_down("1gbit")
            return ""
    except BenchmarkError as exc:
        return str(exc)


MISSING = what_is_missing()
with_namespaces = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def spaces() -> Iterator[Namespaces]:
    with Namespaces(2) as made:
        yield made


def output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def of(pid: int) -> list[str]:
    """The namespaces that a process made."""
    return [name for name in listed() if name.startswith(f"{PREFIX}{pid}-")]


@with_namespaces
def test_nodes_see_each_other_and_nothing_else(spaces: Namespaces) -> None:
    assert output(spaces.inside(client(1), ["cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6"])) == "1\n"
    (route,) = json.loads(spaces.ip(client(1), "-j", "route"))
    assert (route["dst"], route["dev"]) == ("10.0.0.0/16", "eth0")
    (link,) = json.loads(spaces.ip(client(1), "-j", "link", "show", "eth0"))
    assert link["mtu"] == 1500
    addresses = [spaces.address(node) for node in (SERVER, client(0), client(1))]
    assert addresses == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


@with_namespaces
def test_a_link_is_slowed_down_at_both_of_its_ends() -> None:
    with Namespaces(1) as slow:
        slow.slow_down("10mbit")
        for node, device in ((client(0), "eth0"), (HUB, client(0))):
            shown = output(slow.inside(node, [require("tc"), "qdisc", "show", "dev", device]))
            assert "tbf" in shown and "rate 10Mbit" in shown
        with pytest.raises(BenchmarkError, match=r"qdisc add .* failed: .*cannot modify"):  # only once
            slow.slow_down("1mbit")


@with_namespaces
def test_frames_are_those_of_a_cable_and_their_bytes_are_counted() -> None:
    with open_network(Plan(1, 1, network="namespaces")) as network:
        frame_bytes = network.setup.frame_bytes
        assert frame_bytes is not None and 1400 < frame_bytes <= FRAME_BYTES
        child, environment = [sys.executable, "-m", "benchmarks.transfer"], our_environment()
        receive = network.placed([*child, "receive", network.host], None)
        start = time.monotonic()
        with subprocess.Popen(receive, stdout=subprocess.PIPE, env=environment) as reading:
            assert reading.stdout is not None
            port = int(reading.stdout.readline())
            assert listens(reading.pid, port) and not listens(os.getpid(), port)
            with network.counted(port) as counted:
                assert (counted.host, counted.port) == (network.host, port)
                send = network.placed([*child, "send", counted.host, str(counted.port)], 0)
                subprocess.run(send, env=environment, check=True)
    up, down, _ = counted.between(start, time.monotonic())
    headers = 14 + 20 + 32  # Ethernet, IP, TCP with time stamps
    whole = BYTES * FRAME_BYTES / (FRAME_BYTES - headers)
    assert whole <= up < whole * 1.02
    assert 0 < down < BYTES * 0.1  # acknowledgements


@with_namespaces
def test_segmentation_that_is_left_to_the_interface_is_seen_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attach = Namespaces._attach

    def attach_with_offload(self: Namespaces, node: str) -> None:
        attach(self, node)
        self.ip(node, "link", "set", "eth0", "gso_max_segs", "65535")

    monkeypatch.setattr(Namespaces, "_attach", attach_with_offload)
    with open_network(Plan(1, 1, network="namespaces")) as network:
        setup = network.setup
    assert setup.frame_bytes is not None and setup.frame_bytes > 2 * FRAME_BYTES
    assert "OFFLOADS COULD NOT BE SWITCHED OFF" in setup.words()


@with_namespaces
def test_offloads_stay_on_where_that_is_asked_for() -> None:
    with open_network(Plan(1, 1, network="namespaces", offloads=True)) as network:
        setup = network.setup
    assert setup.frame_bytes is not None and setup.frame_bytes > 2 * FRAME_BYTES
    assert setup.offloads and "offloads left on" in setup.words()


@with_namespaces
def test_nothing_is_left_after_a_failure_inside_or_while_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = of(os.getpid())
    with pytest.raises(ZeroDivisionError), Namespaces(1):
        assert len(of(os.getpid())) == len(before) + 3
        raise ZeroDivisionError
    assert of(os.getpid()) == before
    monkeypatch.setattr("benchmarks.namespaces.MTU", 1)  # the server's interface refuses it
    with pytest.raises(BenchmarkError, match=r"mtu 1 .* failed: .*--network loopback"), Namespaces(1):
        pass
    assert of(os.getpid()) == before


@with_namespaces
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_is_stopped_leaves_nothing(number: signal.Signals) -> None:
    command = [sys.executable, "-c", HOLDS_A_NETWORK]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=our_environment()
    ) as process:
        assert process.stdout is not None
        inside = int(process.stdout.readline())
        assert len(of(process.pid)) == 3
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode and b"KeyboardInterrupt" in said
    assert not of(process.pid)
    poll(lambda: ended(inside), "end of what ran inside")


@with_namespaces
def test_what_a_killed_run_left_is_removed_at_the_next_start_and_nothing_else() -> None:
    mine, foreign = f"{PREFIX}{os.getppid()}-alive", f"not-{PREFIX}1-x"
    for name in (mine, foreign):
        output([require("ip"), "netns", "add", name])
    try:
        with subprocess.Popen(
            [sys.executable, "-c", HOLDS_A_NETWORK], stdout=subprocess.PIPE, env=our_environment()
        ) as process:
            assert process.stdout is not None
            inside = int(process.stdout.readline())
            process.kill()
        assert len(of(process.pid)) == 3 and Path(f"/proc/{inside}").exists()
        with Namespaces(0):
            assert not of(process.pid)
            assert {mine, foreign} <= set(listed())
        poll(lambda: ended(inside), "end of what ran inside")
    finally:
        remove([mine, foreign])
    assert not {mine, foreign} & set(listed())


def ended(pid: int) -> bool:
    """Whether a process that nobody waits for is gone, or about to be."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@with_namespaces
def test_the_bare_exchange_in_namespaces() -> None:
    with open_network(Plan(2, 3, network="namespaces")) as network:
        result = in_folder(lambda folder: run_bare(Plan(2, 3), folder, network, lambda _what, _share: None))
    for moved in (result.bytes_up_per_client_round, result.bytes_down_per_client_round):
        assert FLOAT32_BYTES * 0.6 < moved < FLOAT32_BYTES * 1.5
    assert len(result.rounds_s) == 3 and result.messages_per_s is None
    assert "10.0.0.1" in result.note and "a closed network only" in result.note


@with_namespaces
@pytest.mark.slow
def test_our_fleet_in_namespaces(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fleet", "--clients", "2", "--rounds", "2", "--codec", "safe", "--json"]
    arguments += ["--broker", "embedded"]  # the bare exchange has mosquitto
    arguments += ["--pin"] if len(os.sched_getaffinity(0)) > 1 else []
    before, cores = of(os.getpid()), os.sched_getaffinity(0)
    assert main([*arguments, "--network", "namespaces", "--link", "100mbit"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["network"], result["link"], result["mtu"]) == ("namespaces", "100mbit", 1500)
    assert result["bytes_of"].startswith("frames at the bridge's ports")
    if "--pin" in arguments:
        systems, rig = result["cores"]["systems"], result["cores"]["rig"]
        assert len(systems) == 1 and {*systems, *rig} == cores and not {*systems} & {*rig}
    fleet = result["fleet"]
    assert 3_000 < fleet["bytes_up_per_client_round"] < FLOAT32_BYTES / 10
    assert fleet["bytes_down_once_per_client"] > FLOAT32_BYTES * 0.7
    assert of(os.getpid()) == before and os.sched_getaffinity(0) == cores


def test_counters_of_the_clients_ports_are_added_up() -> None:
    text = (
        "Inter-|   Receive                            |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs ...\n"
        "    lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n"
        "server: 900 9 0 0 0 0 0 0 800 8 0 0 0 0 0 0\n"
        "client-0: 100 2 0 0 0 0 0 0 30 3 0 0 0 0 0 0\n"
        "client-12:5 1 0 0 0 0 0 0 4 1 0 0 0 0 0 0\n"
    )
    assert clients_total(text) == (105, 34)


def test_what_cannot_be_is_said_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*options: str) -> str:
        assert main(["fleet", "--clients", "2", *options]) == 1
        return capsys.readouterr().err

    for option in (["--link", "10mbit"], ["--offloads"]):
        assert "need --network namespaces" in refused(*option)
    assert "'fast' is not a link's rate, such as 10mbit" in refused(
        "--network", "namespaces", "--link", "fast"
    )
    with monkeypatch.context() as patch:
        patch.setattr("shutil.which", lambda *_arguments, **_options: None)
        assert "apt install iproute2" in refused("--network", "namespaces")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.which", lambda *_arguments, **_options: "/usr/sbin/ip")
        patch.setattr("os.geteuid", lambda: 1000)
        assert "need root: run it with sudo" in refused("--network", "namespaces")
        with pytest.raises(BenchmarkError, match="at most 500 clients"):
            Namespaces(501)
        patch.setattr("os.sched_getaffinity", lambda _pid: {3})
        assert "--pin needs two cores" in refused("--pin")


def test_rates_of_links() -> None:
    assert [bits_per_second(rate) for rate in ("500kbit", "10mbit", "1gbit")] == [5e5, 1e7, 1e9]
    for wrong in ("0mbit", "10", "10Mbit", "10mbit;", "1e3kbit"):
        with pytest.raises(BenchmarkError):
            bits_per_second(wrong)


def test_a_result_says_what_it_was_measured_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {5, 2, 3})
    cores = choose_cores()
    assert (cores.systems, cores.rig) == ((5,), (2, 3))
    words = Setup("loopback", "TCP streams", 65_536, cores=cores).words()
    assert Setup("loopback", "", 65_536).brief() == "on loopback"
    slow = Setup("namespaces", "", 1500, 1506.0, link="10mbit")
    assert slow.brief() == "over links with an MTU of 1500 and 10mbit each way"
    assert "all systems on core 5; sampler and counter on 2, 3" in words and "65536" in words
