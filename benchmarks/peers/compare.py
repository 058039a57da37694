"""The systems one after the other, and what ours comes to beside each."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from benchmarks.errors import BenchmarkError
from benchmarks.peers.bare import PARAMETERS
from benchmarks.peers.floor import run_bare
from benchmarks.peers.flower import find_flower, run_flower
from benchmarks.peers.network import check_network, open_network
from benchmarks.peers.ours import run_ours
from benchmarks.peers.plan import Plan, Report, SystemResult
from benchmarks.peers.setup import Setup
from compression.updates import PROFILES

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
SHORT_ROUNDS = 100  # of ours and of the bare exchange, at least: in fewer, processor time cannot be told


@dataclass(frozen=True, slots=True)
class Ratio:
    """Flower over ours, above 1 in our favour; and our round over that of the bare exchange."""

    bytes_up: float
    bytes_down: float
    client_pss: float
    server_pss: float
    round_s: float
    round_over_bare: float


@dataclass(frozen=True, slots=True)
class PeersResult:
    """One run of all systems."""

    clients: int
    rounds: int
    parameters: int
    codec: str
    setup: Setup
    ours: SystemResult
    flower: SystemResult
    bare: SystemResult
    ratio: Ratio


def benchmark_peers(
    plan: Plan, *, flower_python: Path | None = None, report: Report = lambda _what, _share: None
) -> PeersResult:
    """Measure all three.

    Raises:
        BenchmarkError: Flower is not installed, too few rounds, an unknown codec, or a system failed.
    """
    find_flower(flower_python)  # before the first minute is spent
    check_plan(plan)
    short = replace(plan, rounds=max(plan.rounds, SHORT_ROUNDS))
    with ended_in_order(), open_network(plan) as network:
        bare = in_folder(lambda folder: run_bare(short, folder, network, report))
        ours = in_folder(lambda folder: run_ours(settled(short), folder, network, report))
        flower = in_folder(lambda folder: run_flower(plan, folder, network, flower_python, report))
    return PeersResult(
        clients=plan.clients,
        rounds=plan.rounds,
        parameters=PARAMETERS,
        codec=plan.codec,
        setup=network.setup,
        ours=ours,
        flower=flower,
        bare=bare,
        ratio=ratio(ours, flower, bare),
    )


def run_fleet(plan: Plan, *, report: Report = lambda _what, _share: None) -> tuple[SystemResult, Setup]:
    """Ours alone, and in what it was measured."""
    check_plan(plan)
    with ended_in_order(), open_network(plan) as network:
        return in_folder(lambda folder: run_ours(settled(plan), folder, network, report)), network.setup


def check_plan(plan: Plan) -> None:
    """Raise `BenchmarkError` for a codec that does not exist, or a link where there can be none."""
    if plan.codec not in PROFILES:
        raise BenchmarkError(f"unknown profile {plan.codec!r}; known are {', '.join(PROFILES)}")
    check_network(plan)


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does, all that it has started too; a second is ignored."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which no signal reaches
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def settled(plan: Plan) -> Plan:
    """With the rounds that the codec's own warm-up takes, during which updates are larger."""
    return replace(plan, settle=max(1, PROFILES[plan.codec].warmup_rounds))


def in_folder(run: Callable[[Path], SystemResult]) -> SystemResult:
    """A run in a folder of its own that is removed after it.

    In memory where that is possible: here all devices would wait for one disk, there each has its own.
    """
    where = MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(
        prefix="bramble-peers-", dir=where, ignore_cleanup_errors=True
    ) as folder:
        return run(Path(folder))


def ratio(ours: SystemResult, flower: SystemResult, bare: SystemResult) -> Ratio:
    """What ours comes to."""
    return Ratio(
        bytes_up=flower.bytes_up_per_client_round / ours.bytes_up_per_client_round,
        bytes_down=flower.bytes_down_per_client_round / ours.bytes_down_per_client_round,
        client_pss=flower.client_pss_mb / ours.client_pss_mb,
        server_pss=flower.server_pss_mb / ours.server_pss_mb,
        round_s=flower.round_s / ours.round_s,
        round_over_bare=ours.round_s / bare.round_s,
    )


def verdict(result: PeersResult) -> str:
    """What it comes to, in words."""
    r, ours, flower = result.ratio, result.ours, result.flower
    return (
        f"Per client and round ours sends {r.bytes_up:.0f} times fewer bytes up and {r.bytes_down:.0f} times "
        f"fewer down than Flower (codec {result.codec}); before that, once, it gets "
        f"{ours.bytes_down_once_per_client / 1e3:.0f} kB: program, first weights and {ours.settle} rounds of "
        "warm-up.\n"
        f"A client takes {ours.client_pss_mb:.0f} MB with its trainer against {flower.client_pss_mb:.0f} MB "
        f"without any ({r.client_pss:.1f} times).\n"
        f"A round takes {ours.round_s:.2f} s against {flower.round_s:.1f} s ({r.round_s:.0f} times faster), "
        f"{r.round_over_bare:.2g} times a bare MQTT exchange of float32, {result.setup.brief()}."
    )
