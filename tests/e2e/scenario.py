"""The whole way: from an operating system's image to a Pi that trains, and what must be true of it then."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.e2e.bench import bench_fleet, bench_in_guest
from tests.e2e.cache import Cache
from tests.e2e.card import boot_file, boot_files
from tests.e2e.checks import check_network, check_report, check_secrets, check_system
from tests.e2e.fleet import ROUNDS, Fleet, make_fleet
from tests.e2e.kernel import get_kernel
from tests.e2e.machine import Machine, Shell
from tests.e2e.os_image import get_os_image
from tests.e2e.preparation import PI, USER, Prepared, flash, issue_token, make_wheelhouse
from tests.e2e.shares import deal
from tests.e2e.shell import RigError
from tests.e2e.steps import Record
from tests.integration.fleet import free_port

STATUS_LOG = "bramble/status.log"
BOOT_S, JOIN_S, RUN_S = 900.0, 1200.0, 3600.0


def run_scenario(
    cache: Cache, folder: Path, record: Record, *, mode: str, bench: bool, power_cut: bool
) -> None:
    """Do it all in an empty folder; raise `RigError` at the first thing that is not as it should be.

    Args:
        cache: of what is slow to make.
        folder: for the fleet, the card and the logs.
        record: gets steps, moments and facts.
        mode: how the client is installed, as `flash --mode` takes it.
        bench: run the benchmark commands in the guest, and measure the fleet.
        power_cut: pull the plug once the Pi's first update is accepted, and power on again.
    """
    prepared = prepare(cache, folder, record, mode)
    with running(prepared.fleet), powered_on(cache, prepared, folder) as machine:
        shell = Shell(USER, prepared.ssh_key, machine.ssh_port)
        with record.step("boot, enrol, join"):
            _follow_to_joined(machine, prepared.fleet, record)
        with record.step(f"{ROUNDS} rounds and the release"):
            _follow_to_release(machine, prepared.fleet, record, power_cut=power_cut)
        with record.step("what must hold") as step:
            step.note = _check_everything(machine, shell, prepared, record)
        if bench:
            with record.step("bramble-bench in the guest"):
                record.facts |= bench_in_guest(shell, prepared)
            with record.step("bramble-bench fleet-latency"):
                record.facts |= bench_fleet(prepared.fleet)
        record.facts["emulator_cpu_s"] = round(machine.cpu_s())


def prepare(cache: Cache, folder: Path, record: Record, mode: str) -> Prepared:
    """Everything before power-on."""
    with record.step("operating system image (kept)") as step:
        step.note = f"{get_os_image(cache).stat().st_size / 1e6:.0f} MB"
    with record.step("deal the examples") as step:
        shares = deal(folder / "shares")
        step.note = record.facts["data"] = shares.said
    with record.step("bramble-server init"):
        fleet = make_fleet(folder / "fleet", shares, _two_ports())
    with record.step("bramble-provision token"):
        token = issue_token(fleet)
    with record.step("bramble-provision wheelhouse (kept)"):
        wheelhouse = make_wheelhouse(cache)
    with record.step(f"bramble-provision flash, {mode}"):
        return flash(cache, fleet, shares, folder, wheelhouse, token, mode)


@contextmanager
def running(fleet: Fleet) -> Iterator[None]:
    """Server (its broker and enrolment service with it), the watch, and the clients on this machine."""
    try:
        fleet.start_watch()
        fleet.start_all()
        yield
    finally:
        fleet.stop()


@contextmanager
def powered_on(cache: Cache, prepared: Prepared, folder: Path) -> Iterator[Machine]:
    """The emulated Pi with its card."""
    machine = Machine(prepared.card, get_kernel(cache), folder, prepared.ports, free_port())
    machine.start()
    try:
        yield machine
    finally:
        machine.stop()


def _follow_to_joined(machine: Machine, fleet: Fleet, record: Record) -> None:
    record.moment("login prompt", machine.wait_for("login", lambda: "login:" in machine.console(), BOOT_S))
    joined = machine.wait_for("joined", partial(_joined, fleet), JOIN_S)
    record.moment("joined, as bramble-provision watch says", joined)
    record.facts["stages_as_watched"] = ", ".join(fleet.stages(PI))
    record.facts["emulator_cpu_s_to_joined"] = round(machine.cpu_s())


def _follow_to_release(machine: Machine, fleet: Fleet, record: Record, *, power_cut: bool) -> None:
    for number in range(1, ROUNDS + 1):
        what, accepted = f"its update of round {number} accepted", partial(_accepted, fleet, number)
        record.moment(what, machine.wait_for(what, accepted, RUN_S))
        if power_cut and number == 1:
            record.facts["emulator_cpu_s_before_power_cut"] = round(machine.cpu_s())
            machine.stop()
            machine.start()
            record.moment("power cut, and on again", machine.uptime_s())
    record.moment("run finished, its release reported", machine.wait_for("end", fleet.finished, RUN_S))


def _joined(fleet: Fleet) -> bool:
    return fleet.finished() or "joined" in fleet.stages(PI)


def _accepted(fleet: Fleet, number: int) -> bool:
    return fleet.finished() or PI in fleet.results_of_round(number)


def _check_everything(machine: Machine, shell: Shell, prepared: Prepared, record: Record) -> str:
    lines = status_lines(prepared.card)
    for uptime, _, name, state, *detail in lines:
        record.moment(f"status.log: {' '.join([name, state, *detail])[:80]}", float(uptime))
    record.facts |= check_report(prepared.fleet.report())
    record.moment("SSH with the card's key", machine.wait_for("ssh", shell.answers, BOOT_S))
    record.facts |= check_system(shell)
    record.facts |= check_network(shell, prepared.fleet.port)
    record.facts |= check_secrets(shell, prepared)
    return f"{len(lines)} lines of status.log read from the boot partition"


def status_lines(card: Path) -> list[list[str]]:
    """The first boot's own account, from the FAT partition, as any PC would read it."""
    if STATUS_LOG not in boot_files(card):
        raise RigError(f"no {STATUS_LOG} on the boot partition: {', '.join(boot_files(card))}")
    return [line.split() for line in boot_file(card, STATUS_LOG).splitlines() if line.strip()]


def _two_ports() -> int:
    """A free port with a free one above it: the enrolment service's."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.socket() as above:
            above.bind(("127.0.0.1", port + 1))
            return port
