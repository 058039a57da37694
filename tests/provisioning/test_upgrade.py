"""A signed client: what is refused, what the device says of it, and the whole way over a real broker."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from broker_server.broker.factory import open_broker
from broker_server.broker.installed import find_mosquitto
from edge_client.agent import Agent
from edge_client.cli import main as edge_main
from edge_client.config import DataConfig, EdgeConfig
from edge_client.device import slots, unpack
from edge_client.session.address import BrokerAddress
from edge_client.session.blobs import BlobStore
from edge_client.upgrade import OUTCOME, STAGED
from edge_client.upgrade.agent import FOLDER, PACKAGE, Upgrader
from edge_client.upgrade.errors import UpgradeError
from edge_client.upgrade.install import install_package
from edge_client.upgrade.package import write_package
from edge_client.wire.signer import Signer
from edge_client.wire.upgrade import Upgrade, UpgradeReport
from provisioning.cli import main
from provisioning.pki.authority import FleetCA
from provisioning.pki.signing import create_signing_key
from provisioning.upgrade import Delivery, SignedUpgrade, UpgradeFailedError, sign_upgrade
from provisioning.upgrade_commands import _deliver
from tests.provisioning.install_cases import wheelhouse

NAME, FLEET = "pi-1", "ward"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync waits for everybody's writes, and no power cut comes here."""
    monkeypatch.setattr("os.sync", lambda: None)


class Case:
    """A device that runs client 1.0, build 1000, and a fleet that can sign."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.prefix, self.state = tmp_path / "opt/bramble", tmp_path / "var/lib/bramble"
        self.state.mkdir(parents=True)
        self.signer = create_signing_key(tmp_path / "keys")
        with wheelhouse(tmp_path, "1.0", 1000).archive.open("rb") as archive:
            unpack.install(self.prefix, self.state, archive)
        self.blobs = BlobStore(tmp_path / "blobs")

    @property
    def config(self) -> EdgeConfig:
        return EdgeConfig(
            name=NAME,
            fleet=FLEET,
            server_key=self.signer.public_hex,
            state=str(self.state),
            broker=BrokerAddress("localhost", 1883),
            data=DataConfig(source=f"table:{self.folder / 'table.csv'}"),
        )

    def signed(
        self, version: str = "2.0", build: int = 2000, number: int = 1, **options: object
    ) -> SignedUpgrade:
        signer = options.pop("signer", self.signer)
        made = wheelhouse(self.folder, version, build)
        return sign_upgrade(made, FLEET, str(options.pop("name", NAME)), signer, now=number, **options)  # type: ignore[arg-type]

    def package(self, signed: SignedUpgrade) -> Path:
        path = self.folder / "some.upgrade"
        write_package(path, signed.frame, signed.archive)
        return path

    def install(self, signed: SignedUpgrade) -> Upgrade:
        return install_package(self.package(signed), self.config, prefix=self.prefix, state=self.state)

    def upgrader(self) -> Upgrader:
        return Upgrader(self.state, self.blobs, str(self.prefix))

    def running(self) -> str:
        return str(slots.client_of(self.prefix, slots.chosen(self.prefix, self.state))["version"])


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


# ---- root's half ----


def test_a_signed_client_is_installed_beside_the_running_one(case: Case) -> None:
    assert case.install(case.signed()).version == "2.0"
    assert slots.begin_start(case.prefix, case.state) == ("b", True)
    assert not (case.prefix / ".upgrade").exists()


def test_who_did_not_sign_installs_nothing(case: Case, tmp_path: Path) -> None:
    stranger = Signer.create(tmp_path / "stranger")
    with pytest.raises(UpgradeError, match="the signature is not by the fleet's key"):
        case.install(case.signed(signer=stranger))
    with pytest.raises(UpgradeError, match="is it for pi-1 of fleet ward"):
        case.install(case.signed(name="pi-2"))
    assert case.running() == "1.0"


def test_a_changed_archive_or_file_is_refused(case: Case) -> None:
    path = case.package(case.signed())
    data = path.read_bytes()
    for changed, reason in (
        (data[:-1], "the archive is not the one that was signed"),
        (data + b"x", "the archive is not the one that was signed"),
        (data[:6], "this is not an upgrade"),
        (b"XXXX" + data[4:], "this is not an upgrade"),
        (data[:4] + b"\xff\xff\xff\xff" + data[8:], "is too long"),
        (data[:40], "is it for pi-1"),
    ):
        path.write_bytes(changed)
        with pytest.raises(UpgradeError, match=reason):
            install_package(path, case.config, prefix=case.prefix, state=case.state)
    with pytest.raises(UpgradeError, match="No such file"):
        install_package(case.folder / "none", case.config, prefix=case.prefix, state=case.state)
    assert case.running() == "1.0"


def test_root_copies_no_file_that_the_service_only_points_at(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link in the service's folder would show root's files to all, a pipe or a device would not end."""
    package = case.package(case.signed())
    link, pipe = case.state / PACKAGE, case.state / "pipe"
    link.symlink_to(package)
    os.mkfifo(pipe)
    for place in (link, pipe, Path("/dev/zero")):
        with pytest.raises(UpgradeError, match=str(place)):
            install_package(place, case.config, prefix=case.prefix, state=case.state)
    monkeypatch.setattr("edge_client.upgrade.install.MAX_PACKAGE_BYTES", 1000)
    with pytest.raises(UpgradeError, match="has more than 1000 bytes"):
        install_package(package, case.config, prefix=case.prefix, state=case.state)
    assert case.running() == "1.0" and not (case.prefix / ".upgrade").exists()


def test_what_root_copies_is_for_root_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []

    def look(path: Path, *_arguments: object) -> None:
        modes.append(path.stat().st_mode & 0o777)
        raise UpgradeError("seen")

    monkeypatch.setattr("edge_client.upgrade.install.open_package", look)
    with pytest.raises(UpgradeError, match="seen"):
        case.install(case.signed())
    assert modes == [0o600]


def test_an_older_client_needs_a_signed_rollback_and_a_replay_does_nothing(case: Case) -> None:
    newer, older = case.signed(number=10), case.signed("0.9", 900, number=11)
    case.install(newer)
    with pytest.raises(UpgradeError, match="upgrade 10 was carried out before"):
        case.install(newer)
    with pytest.raises(UpgradeError, match="build 900 is older than 2000, which runs; a rollback must say"):
        case.install(older)
    with pytest.raises(UpgradeError, match="build 2000 runs already"):
        case.install(case.signed(number=12))
    rollback = case.signed("0.9", 900, number=12, rollback=True)
    case.install(rollback)
    assert case.running() == "0.9"
    case.install(case.signed("3.0", 3000, number=13))
    with pytest.raises(UpgradeError, match="a replay"):
        case.install(rollback)
    assert case.running() == "3.0"


def test_a_client_for_another_system_is_refused(case: Case) -> None:
    signed = case.signed()
    other = replace(signed.upgrade, target="bookworm-armhf")
    from edge_client.wire.frame import encode
    from edge_client.wire.topics import MESSAGE, Topics

    frame = encode(other, topic=Topics(FLEET).down(NAME, MESSAGE), signer=case.signer)
    with pytest.raises(UpgradeError, match="is for bookworm-armhf, this device is trixie-arm64"):
        case.install(replace(signed, upgrade=other, frame=frame))


def test_by_hand(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    settings = case.folder / "edge.toml"
    settings.write_text(
        f'name = "{NAME}"\nfleet = "{FLEET}"\nserver_key = "{case.signer.public_hex}"\nstate = "state"\n'
        '[broker]\nhost = "localhost"\nport = 1883\n[data]\nsource = "table:table.csv"\n'
    )
    arguments = ["upgrade", str(case.package(case.signed())), "--config", str(settings)]
    arguments += ["--root", str(case.folder), "--outcome"]
    (case.folder / STAGED).write_text('{"number": 1}')
    assert edge_main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": "2.0", "build": 2000, "number": 1}
    assert edge_main(arguments) == 1  # the power went before the request was removed
    assert "a replay" in capsys.readouterr().err
    assert not (case.prefix / OUTCOME).exists()  # how its trial ends is the word on it
    (case.folder / STAGED).write_text('{"number": 2}')
    assert edge_main(arguments) == 1
    word = slots.read_json(case.prefix / OUTCOME)
    assert word["number"] == 2 and "a replay" in word["reason"]
    settings.write_text("name = 1")
    assert edge_main(arguments) == 1
    word = slots.read_json(case.prefix / OUTCOME)  # this one reaches the fleet too
    assert word["number"] == 2 and "a replay" not in word["reason"]


# ---- the agent's half ----


def staged(case: Case, signed: SignedUpgrade) -> Upgrader:
    upgrader = case.upgrader()
    assert upgrader.on_upgrade(signed.upgrade, signed.frame) is None
    assert upgrader.wanted == signed.upgrade.archive
    case.blobs.put(signed.archive.read_bytes())
    assert upgrader.stage() == UpgradeReport(1, 2000, "staged")
    return upgrader


def test_what_the_agent_leaves_is_what_root_installs(case: Case) -> None:
    upgrader = staged(case, case.signed())
    assert (case.state / FOLDER / STAGED).exists() and upgrader.wanted is None
    assert upgrader.news() is None
    install_package(case.state / FOLDER / PACKAGE, case.config, prefix=case.prefix, state=case.state)
    assert slots.begin_start(case.prefix, case.state) == ("b", True)
    assert case.upgrader().news() == UpgradeReport(1, 2000, "running")
    assert case.upgrader().news() is None  # said once; asked again, it is repeated
    signed = case.signed()
    assert case.upgrader().on_upgrade(signed.upgrade, signed.frame) == UpgradeReport(1, 2000, "running")


def test_a_client_that_failed_its_trial_is_reported(case: Case) -> None:
    staged(case, case.signed())
    install_package(case.state / FOLDER / PACKAGE, case.config, prefix=case.prefix, state=case.state)
    for _ in range(4):
        slots.begin_start(case.prefix, case.state)
    assert case.upgrader().news() == UpgradeReport(1, 2000, "rolled-back", "not online in 3 starts")


def test_a_power_cut_between_memory_and_request_is_mended_when_asked_again(case: Case) -> None:
    signed = case.signed()
    staged(case, signed)
    request = case.state / FOLDER / STAGED
    request.unlink()
    assert case.upgrader().on_upgrade(signed.upgrade, signed.frame) == UpgradeReport(1, 2000, "staged")
    assert slots.read_json(request) == {"number": 1}
    request.unlink()  # by root, which has refused it
    slots.write_json(case.prefix / OUTCOME, {"number": 1, "reason": "damaged"})
    case.upgrader().on_upgrade(signed.upgrade, signed.frame)
    assert not request.exists()


def test_a_package_is_on_the_disk_before_it_has_its_name(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    case.package(case.signed())
    assert ".some.upgrade.tmp" in synced


def test_roots_refusal_is_reported(case: Case) -> None:
    staged(case, case.signed())
    slots.write_json(case.prefix / OUTCOME, {"number": 0, "reason": "of the one before"})
    assert case.upgrader().news() is None
    slots.write_json(case.prefix / OUTCOME, {"number": 1, "reason": "damaged"})
    assert case.upgrader().news() == UpgradeReport(1, 2000, "refused", "damaged")


def test_the_agent_refuses_before_it_fetches(case: Case) -> None:
    older, other = case.signed("0.9", 900), case.signed("2.0", 2000, number=2)
    word = case.upgrader().on_upgrade(older.upgrade, older.frame)
    assert word is not None and word.outcome == "refused" and "is older than 1000" in word.reason
    bare = Upgrader(case.state, case.blobs, "")
    word = bare.on_upgrade(other.upgrade, other.frame)
    assert word is not None and "was not started by the launcher" in word.reason
    assert bare.news() is None and bare.wanted is None
    with pytest.raises(LookupError):
        bare.stage()
    late = case.signed("3.0", 3000, number=1)
    assert bare.on_upgrade(late.upgrade, late.frame) is None  # older than what was asked last


# ---- the workstation ----


def test_a_client_that_is_too_large_is_said(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioning.upgrade.MAX_BLOB_BYTES", 10)
    with pytest.raises(UpgradeFailedError, match="10 can be sent"):
        case.signed()


def test_the_command(case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ca = case.folder / "ca"
    FleetCA.create(ca, FLEET)
    made = wheelhouse(case.folder, "2.0", 2000)
    base = ["upgrade", NAME, "--wheelhouse", str(made.folder), "--ca", str(ca)]
    base += ["--keys", str(case.folder / "keys")]
    assert main(base) == 1
    assert "give --broker HOST:PORT or --out FILE" in capsys.readouterr().err
    out = case.folder / "pi-1.upgrade"
    assert main([*base, "--out", str(out), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "not sent" and not out.exists()
    assert main([*base, "--out", str(out)]) == 0
    assert "build 2000: written" in capsys.readouterr().out
    assert install_package(out, case.config, prefix=case.prefix, state=case.state).build == 2000
    assert main([*base, "--broker", "nonsense"]) == 1
    assert "is not HOST:PORT" in capsys.readouterr().err
    monkeypatch.setattr("provisioning.upgrade_commands._deliver", lambda *_: ("rolled-back", "no network"))
    assert main([*base, "--broker", "h:1"]) == 1
    assert "build 2000: rolled-back no network" in capsys.readouterr().out


# ---- over a real broker ----


class Service:
    """The agent as systemd runs it: started, ended, started again."""

    def __init__(self, config: EdgeConfig) -> None:
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        agent = Agent(self._config)
        agent.run(self._stop)
        agent._state.close()

    def end(self) -> None:
        self._stop.set()
        self._thread.join(30)


def wait_for(path: Path, ended: Callable[[], bool]) -> None:
    while not path.exists() and not ended():
        threading.Event().wait(0.05)


@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_a_client_goes_the_whole_way_over_mutual_tls(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{index},{index * 2},{'ab'[index % 2]}" for index in range(40)]
    (case.folder / "table.csv").write_text("\n".join(["x,y,label", *rows]))
    monkeypatch.setenv("BRAMBLE_PREFIX", str(case.prefix))
    monkeypatch.setattr("provisioning.upgrade.ASK_AGAIN_S", 1.0)
    ca = FleetCA.create(case.folder / "ca", FLEET)
    signed, words = case.signed(), list[tuple[str, str]]()
    with open_broker("mosquitto", case.folder / "broker", fleet=FLEET, pki=ca) as broker:
        config = replace(case.config, broker=broker.device_address(NAME))
        address = broker.server_address()

        def deliver() -> None:
            word = Delivery(address, signed, lambda _what, _share: None).run(120)
            words.append((word.outcome, word.reason))

        sender = threading.Thread(target=deliver)
        service = Service(config)
        sender.start()
        try:
            wait_for(case.state / FOLDER / STAGED, lambda: not sender.is_alive())
            install_package(case.state / FOLDER / PACKAGE, config, prefix=case.prefix, state=case.state)
            slots.begin_start(case.prefix, case.state)  # the launcher's, when systemd starts it again
            service.end()
            service = Service(config)
            sender.join(120)
        finally:
            service.end()
            sender.join(130)
    assert words == [("running", "")]
    assert slots.read_json(case.state / slots.TRIAL)["state"] == "passed"


@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_a_device_that_is_away_is_said(case: Case) -> None:
    import argparse

    ca = FleetCA.create(case.folder / "ca", FLEET)
    with open_broker("mosquitto", case.folder / "broker", fleet=FLEET, pki=ca) as broker:
        address = broker.server_address()
        arguments = argparse.Namespace(
            broker=f"{address.host}:{address.port}", ca=case.folder / "ca", wait=0.5
        )
        with pytest.raises(UpgradeFailedError, match=r"not running within 0\.5 s; nothing was heard of it"):
            _deliver(arguments, ca, case.signed())
