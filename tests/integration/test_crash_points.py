"""SIGKILL at named points of a round, and other faults: the run finishes, the model is the same bit for bit.

Real processes and a real mosquitto. Every run has the same two devices, data and seed as an undisturbed one,
so an update that was lost, or counted twice, would show in the digest of the weights.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker_server.broker.installed import find_mosquitto
from broker_server.broker.mosquitto import MosquittoBroker
from broker_server.config import DataConfig, ReleaseConfig, load_config
from broker_server.run_plan import stages_of
from edge_client.config import load_config as load_device
from edge_client.session.address import BrokerAddress
from edge_client.wire.frame import encode
from edge_client.wire.presence import Presence
from edge_client.wire.rounds import Result
from edge_client.wire.topics import MESSAGE, STATUS, Topics
from provisioning.pki.authority import FleetCA
from provisioning.pki.identity import ensure_identity
from tests.broker_server.mqtt_peer import peer
from tests.integration.faults import Faults
from tests.integration.fleet import FLEET, RealFleet, real_fleet
from tests.integration.points import CALIBRATION, DEVICE, MEASURING, RELEASE, SERVER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mosquitto,
    pytest.mark.timeout(400),
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]

ROUNDS, DEVICES, DAY_S = 3, 2, 86_400.0
QUICK: dict[str, Any] = {
    "rounds": ROUNDS, "epochs": 2, "learning_rate": 3e-3, "quorum": DEVICES, "wait_for": DEVICES,
    "deadline_s": 300.0, "grace_s": 120.0,
}  # fmt: skip
NO_RELEASE = {"release": ReleaseConfig(enabled=False), "data": DataConfig()}
WAIT_S = 240.0  # of which a quiet machine needs five


@dataclass
class FaultyFleet(RealFleet):
    """A fleet whose processes have faults; `always` in every one, `once` in the next start of a name."""

    always: Faults = Faults()
    once: dict[str, Faults] = field(default_factory=dict)

    def _start(self, name: str, arguments: list[str]) -> None:
        faults = self.once.pop(name, self.always)
        super()._start(name, ["tests.integration.faults", faults.text(), *arguments])

    def start_and_freeze(self) -> psutil.Process:
        """Start all; the first device, stopped in round 2 with its result not written yet."""
        name = self.names[0]
        self.once[name] = Faults(at="trained-before-the-result-is-written", freeze=True)
        self.start_all()
        device = psutil.Process(self.processes[name].pid)
        self.wait(lambda: device.status() == psutil.STATUS_STOPPED, f"{name} to be stopped", WAIT_S)
        return device

    def wait_killed(self, name: str) -> None:
        """Until a process has been killed where its faults say."""
        process = self.processes[name]
        self.wait(lambda: process.poll() is not None, f"{name} to be killed", WAIT_S)
        assert process.returncode == -signal.SIGKILL, self.log(name)

    def finish(self) -> dict[str, Any]:
        """The report of the finished run."""
        self.wait(self.finished, "the run to finish", WAIT_S)
        return self.report()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def digest(self) -> str:
        """Of the newest weights."""
        ((record,),) = self.query("SELECT record FROM versions ORDER BY version DESC LIMIT 1")
        return str(json.loads(record)["digest"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Digest of an undisturbed run's weights, and its compiled program for the other runs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with real_fleet(
        folder, "external", devices=DEVICES, make=FaultyFleet, changes=NO_RELEASE, **QUICK
    ) as fleet:
        fleet.start_all()
        assert fleet.finish()["incidents"] == []
        ((bundle,),) = fleet.query("SELECT value FROM facts WHERE name = 'bundle'")
        ((first,),) = fleet.query("SELECT record FROM versions WHERE version = 0")
        artefacts, program = folder / "state" / "artefacts", folder / "program"
        program.mkdir()
        (program / "bundle").write_bytes((artefacts / bundle).read_bytes())
        (program / "weights").write_bytes((artefacts / json.loads(first)["full"]["digest"]).read_bytes())
        check_ledger(fleet)
        return fleet.digest(), program


@contextmanager
def faulty_fleet(
    folder: Path, program: Path, kind: str = "external", **changes: Any
) -> Iterator[FaultyFleet]:
    """Two devices, three rounds, the program of the undisturbed run."""
    with real_fleet(
        folder, kind, devices=DEVICES, make=FaultyFleet, changes=NO_RELEASE | changes, **QUICK
    ) as fleet:
        fleet.always = Faults(program=str(program))
        yield fleet


@pytest.fixture
def fleet(tmp_path: Path, undisturbed: tuple[str, Path]) -> Iterator[FaultyFleet]:
    with faulty_fleet(tmp_path, undisturbed[1]) as fleet:
        yield fleet


def check_ledger(fleet: FaultyFleet) -> None:
    """Each device counted once in each stage, each round made one version, nothing else is left."""
    stages = list(range(len(stages_of(load_config(fleet.folder / "server.toml")))))
    counted = fleet.query("SELECT stage, device FROM results ORDER BY stage, device")
    assert counted == [(stage, name) for stage in stages for name in sorted(fleet.names)]
    assert fleet.query("SELECT version FROM versions ORDER BY version") == [(n,) for n in range(ROUNDS + 1)]
    rounds = [json.loads(record) for (record,) in fleet.query("SELECT record FROM rounds ORDER BY round")]
    assert [sorted(record["clients"]) for record in rounds] == [sorted(fleet.names)] * ROUNDS
    assert fleet.query("SELECT value FROM facts WHERE name = 'stages_closed'") == [(str(len(stages)),)]
    assert fleet.query("SELECT * FROM failures") == []


def check_same(fleet: FaultyFleet, undisturbed: tuple[str, Path]) -> dict[str, Any]:
    """It finishes, and nothing of what was to count is lost or counted twice."""
    report = fleet.finish()
    check_ledger(fleet)
    assert fleet.digest() == undisturbed[0]
    return report


@pytest.mark.parametrize("point", SERVER)
def test_the_server_killed_at_a_point(fleet: FaultyFleet, undisturbed: tuple[str, Path], point: str) -> None:
    fleet.once["server"] = Faults(at=point, program=fleet.always.program)
    fleet.start_all()
    fleet.wait_killed("server")
    fleet.start_server()
    report = check_same(fleet, undisturbed)
    assert any(incident["who"] == "server" for incident in report["incidents"])


def test_the_server_killed_before_it_evaluates_does_so_when_it_is_back(
    tmp_path: Path, undisturbed: tuple[str, Path]
) -> None:
    held_out = {"release": NO_RELEASE["release"]}
    with real_fleet(
        tmp_path, "external", devices=DEVICES, make=FaultyFleet, changes=held_out, **QUICK
    ) as fleet:
        fleet.always = Faults(program=str(undisturbed[1]))
        fleet.once["server"] = replace(fleet.always, at="next-task-out-before-the-evaluation")
        fleet.start_all()
        fleet.wait_killed("server")
        tasks, evaluated = "SELECT max(json_extract(task, '$.round')) FROM tasks", evaluations(fleet)
        assert (fleet.query(tasks), evaluated) == ([(3,)], [True, False])  # the third round is under way
        fleet.start_server()
        check_same(fleet, undisturbed)
        assert evaluations(fleet) == [True] * ROUNDS


def evaluations(fleet: FaultyFleet) -> list[bool]:
    """Of each closed round, whether its weights are evaluated on the held-out examples."""
    query = "SELECT json_type(record, '$.evaluation') FROM rounds ORDER BY round"
    return [kind == "object" for (kind,) in fleet.query(query)]


@pytest.mark.parametrize(
    "point",
    [
        "task-published",
        "update-stored-before-its-result",
        "ledger-written-before-the-receipt",
        "commit-done-before-the-next-task",
    ],
)
def test_the_power_of_server_and_broker_fails_at_a_point(
    tmp_path: Path, undisturbed: tuple[str, Path], point: str
) -> None:
    with faulty_fleet(tmp_path, undisturbed[1], "mosquitto") as fleet:  # what it held is gone, too
        fleet.once["server"] = Faults(at=point, family=True, program=fleet.always.program)
        fleet.start_all()
        fleet.wait_killed("server")
        fleet.start_server()
        check_same(fleet, undisturbed)


@pytest.mark.parametrize("point", RELEASE)
def test_the_server_killed_in_the_release(tmp_path: Path, undisturbed: tuple[str, Path], point: str) -> None:
    with faulty_fleet(tmp_path, undisturbed[1], release=ReleaseConfig(wait_s=120.0)) as fleet:
        fleet.once["server"] = Faults(at=point, program=fleet.always.program)
        fleet.start_all()
        fleet.wait_killed("server")
        fleet.start_server()
        report = check_same(fleet, undisturbed)
        assert [client["model_version"] for client in report["clients"]] == [1] * DEVICES
        assert fleet.query("SELECT count(*) FROM models") == [(1,)]
        assert fleet.query("SELECT json_extract(state, '$.phase') FROM rollouts") == [("complete",)]


@contextmanager
def calibrating_fleet(folder: Path, program: Path) -> Iterator[FaultyFleet]:
    """A run that ends with a release, calibrated by its devices."""
    release = ReleaseConfig(wait_s=120.0, calibration="federated")
    with faulty_fleet(folder, program, release=release) as fleet:
        yield fleet


def check_calibrated(fleet: FaultyFleet, undisturbed: tuple[str, Path]) -> None:
    """Both devices are in the ranges, once, and the release is made of them."""
    report = check_same(fleet, undisturbed)
    assert report["calibration"]["used"] == "federated"
    assert sorted(report["calibration"]["devices"]) == sorted(fleet.names)
    assert report["model"]["int8_calibration"] == "full-integer"
    assert [client["model_version"] for client in report["clients"]] == [1] * DEVICES


@pytest.mark.parametrize("point", CALIBRATION)
def test_the_server_killed_in_the_calibration(
    tmp_path: Path, undisturbed: tuple[str, Path], point: str
) -> None:
    with calibrating_fleet(tmp_path, undisturbed[1]) as fleet:
        fleet.once["server"] = Faults(at=point, program=fleet.always.program)
        fleet.start_all()
        fleet.wait_killed("server")
        fleet.start_server()
        check_calibrated(fleet, undisturbed)


@pytest.mark.parametrize("point", MEASURING)
def test_a_device_killed_while_it_measures_ranges(
    tmp_path: Path, undisturbed: tuple[str, Path], point: str
) -> None:
    with calibrating_fleet(tmp_path, undisturbed[1]) as fleet:
        victim = fleet.names[0]
        fleet.once[victim] = Faults(at=point)
        fleet.start_all()
        fleet.wait_killed(victim)
        fleet.start_client(victim)
        check_calibrated(fleet, undisturbed)


@pytest.mark.parametrize("point", DEVICE)
def test_a_device_killed_at_a_point(fleet: FaultyFleet, undisturbed: tuple[str, Path], point: str) -> None:
    victim = fleet.names[0]
    fleet.once[victim] = Faults(at=point)
    fleet.start_all()
    fleet.wait_killed(victim)
    fleet.start_client(victim)
    check_same(fleet, undisturbed)


@pytest.mark.parametrize("point", ["task-published", "ledger-written-before-the-receipt"])
def test_the_broker_killed_at_a_point(fleet: FaultyFleet, undisturbed: tuple[str, Path], point: str) -> None:
    broker = fleet.outer_broker
    assert isinstance(broker, MosquittoBroker) and broker.pid
    before = broker.pid
    fleet.once["server"] = Faults(at=point, kill=before, program=fleet.always.program)
    fleet.start_all()
    check_same(fleet, undisturbed)
    assert broker.pid not in (None, before)


def test_messages_twice_late_and_in_another_order(fleet: FaultyFleet, undisturbed: tuple[str, Path]) -> None:
    fleet.always = Faults(unreliable=True, program=fleet.always.program)
    fleet.start_all()
    check_same(fleet, undisturbed)
    (line,) = [line for line in fleet.log("server").splitlines() if line.startswith("delivered badly: ")]
    counts = json.loads(line.removeprefix("delivered badly: ").replace("'", '"'))
    assert all(counts[what] > 0 for what in ("twice", "swapped", "late"))


@pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S])
def test_the_clock_jumps_in_a_round(fleet: FaultyFleet, undisturbed: tuple[str, Path], jump_s: float) -> None:
    fleet.once["server"] = Faults(at="task-published", jump_s=jump_s, program=fleet.always.program)
    fleet.start_all()
    report = check_same(fleet, undisturbed)
    assert "the clock jumps" in fleet.log("server")
    assert report["wall_s"] < WAIT_S
    assert all(entry["seconds"] < WAIT_S for entry in report["rounds"])


def test_the_clock_is_a_day_behind_after_a_restart(fleet: FaultyFleet, undisturbed: tuple[str, Path]) -> None:
    fleet.once["server"] = Faults(at="ledger-written-before-the-receipt", program=fleet.always.program)
    fleet.start_all()
    fleet.wait_killed("server")
    fleet.once["server"] = Faults(jump_s=-DAY_S, program=fleet.always.program)
    fleet.start_server()
    check_same(fleet, undisturbed)
    numbers = [number for (number,) in fleet.query("SELECT number FROM tasks ORDER BY rowid")]
    assert numbers == sorted(numbers)  # devices take a task with a higher number only


def test_devices_that_claim_more_examples_than_they_have(
    fleet: FaultyFleet, undisturbed: tuple[str, Path]
) -> None:
    claim = 1_000_000_000
    fleet.once = dict.fromkeys(fleet.names, Faults(claim=claim))
    fleet.start_all()
    check_same(fleet, undisturbed)  # each counts as its hello said before any training
    claims = fleet.query("SELECT DISTINCT json_extract(result, '$.training.examples') FROM results")
    assert (claim,) in claims


def test_a_device_that_answers_for_another_is_not_heard(
    tmp_path: Path, undisturbed: tuple[str, Path]
) -> None:
    with faulty_fleet(tmp_path, undisturbed[1], "mosquitto") as fleet:
        victim, topics = fleet.names[0], Topics(FLEET)
        device = fleet.start_and_freeze()
        ((number,),) = fleet.query("SELECT max(number) FROM tasks")
        with peer(address_of(fleet, "rogue")) as rogue:
            for channel, message in (
                (MESSAGE, Result(task=number, status="failed", reason="forged")),
                (STATUS, Presence(state="offline", session="0" * 16)),
            ):
                answer = rogue.publish(topics.up(victim, channel), encode(message))
                assert str(answer) == "Not authorized"
                assert not rogue.publish(topics.up("rogue", channel), encode(message)).is_failure
        device.resume()
        report = check_same(fleet, undisturbed)
        assert report["incidents"] == []


def address_of(fleet: FaultyFleet, name: str) -> BrokerAddress:
    """Of one more device, with a certificate of the fleet's authority."""
    known = load_device(fleet.folder / fleet.names[0] / "edge.toml").broker
    identity = ensure_identity(FleetCA.open(fleet.folder / "pki"), fleet.folder / name, name)
    return replace(known, certificate_file=str(identity.certificate_file), key_file=str(identity.key_file))


def test_a_disk_that_is_full_is_said_and_room_is_all_it_needs(
    tmp_path: Path, undisturbed: tuple[str, Path]
) -> None:
    with small_disk(tmp_path / "state") as disk, faulty_fleet(tmp_path, undisturbed[1]) as fleet:
        device = fleet.start_and_freeze()
        fill(disk / "filler")
        device.resume()
        server = fleet.processes["server"]
        fleet.wait(lambda: server.poll() is not None, "the server to end", WAIT_S)
        assert server.returncode == 1
        last = fleet.log("server").strip().splitlines()[-1]
        assert last.startswith("error: ") and "the disk is full" in last and str(disk) in last
        (disk / "filler").unlink()
        fleet.start_server()
        check_same(fleet, undisturbed)
        fleet.stop()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, of 16 MB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Until not a page is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
