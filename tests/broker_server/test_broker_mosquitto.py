"""mosquitto with the generated configuration: certificates, revocation, persistence, rights. All real."""

from __future__ import annotations

import os
import pwd
import signal
import site
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from broker_server.broker import revocation
from broker_server.broker.access import DROPPED_TOPIC
from broker_server.broker.base import BrokerError
from broker_server.broker.eviction import evict
from broker_server.broker.installed import find_mosquitto, require_mosquitto
from broker_server.broker.mosquitto import MosquittoBroker
from broker_server.broker.mosquitto_files import MAX_QUEUED_MESSAGES, MosquittoFiles, choose_account
from edge_client.wire.topics import AGGREGATOR, Topics
from provisioning.pki.authority import FleetCA
from provisioning.pki.keys import CERTIFICATE_FILE, KEY_FILE, make_device_key_and_csr
from tests.broker_server.mqtt_peer import Peer, peer, poll

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]
T = Topics("ward")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> FleetCA:
    return FleetCA.create(tmp_path_factory.mktemp("pki") / "ca", "ward")


@pytest.fixture(scope="module")
def broker(pki: FleetCA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path_factory.mktemp("broker"), T, pki=pki) as running:
        yield running


def refused(attempt: Peer) -> bool:
    """Whether the TLS handshake or CONNECT was refused (with TLS 1.3 the client learns it afterwards)."""
    return bool(attempt.disconnected and attempt.connack is None)


def test_a_client_without_a_certificate_is_refused(broker: MosquittoBroker) -> None:
    address = replace(broker.device_address("bare"), certificate_file=None, key_file=None, username="bare")
    with peer(address, welcome=False) as bare:
        bare.until(lambda: refused(bare), "refusal")


def test_a_certificate_of_another_authority_is_refused(broker: MosquittoBroker, tmp_path: Path) -> None:
    foreign = FleetCA.create(tmp_path / "foreign", "ward")
    (tmp_path / CERTIFICATE_FILE).write_bytes(
        foreign.sign_csr(make_device_key_and_csr(tmp_path, AGGREGATOR), AGGREGATOR, role="aggregator")
    )
    files = {"certificate_file": str(tmp_path / CERTIFICATE_FILE), "key_file": str(tmp_path / KEY_FILE)}
    with peer(replace(broker.server_address(), **files), welcome=False) as stranger:
        stranger.until(lambda: refused(stranger), "refusal")


def test_a_broker_of_another_authority_is_refused(broker: MosquittoBroker, tmp_path: Path) -> None:
    foreign = FleetCA.create(tmp_path / "foreign", "ward")
    address = replace(broker.device_address("careful"), ca_file=str(foreign.certificate_file))
    with pytest.raises(OSError, match="certificate verify failed"), peer(address):
        pass


def test_a_server_certificate_cannot_be_a_client(
    broker: MosquittoBroker, pki: FleetCA, tmp_path: Path
) -> None:
    key = tmp_path / "server.key"
    (tmp_path / "server.crt").write_bytes(pki.issue_server(key, ["localhost"]))
    files = {"certificate_file": str(tmp_path / "server.crt"), "key_file": str(key)}
    with peer(replace(broker.device_address("x"), **files), welcome=False) as wrong:
        wrong.until(lambda: refused(wrong), "refusal")


def test_an_expired_certificate_is_refused(broker: MosquittoBroker, pki: FleetCA, tmp_path: Path) -> None:
    long_ago = pki.not_after.replace(year=pki.not_after.year - 13)
    request = make_device_key_and_csr(tmp_path, "old")
    (tmp_path / CERTIFICATE_FILE).write_bytes(pki.sign_csr(request, "old", days=30, now=long_ago))
    files = {"certificate_file": str(tmp_path / CERTIFICATE_FILE), "key_file": str(tmp_path / KEY_FILE)}
    with peer(replace(broker.device_address("x"), **files), welcome=False) as old:
        old.until(lambda: refused(old), "refusal")


def test_an_old_tls_version_is_refused(broker: MosquittoBroker) -> None:
    result = subprocess.run(
        ["openssl", "s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0",
         "-connect", f"127.0.0.1:{broker.server_address().port}"],
        input=b"", capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert b"alert protocol version" in result.stderr


def test_stealing_the_aggregators_identifier_does_not_touch_its_queue(broker: MosquittoBroker) -> None:
    with peer(broker.server_address(), clean=False) as server:
        server.subscribe(T.server_filters()[0])
    with (
        peer(broker.device_address("thief"), client_id=AGGREGATOR) as thief,
        peer(broker.device_address("worker")) as worker,
    ):
        thief.subscribe(T.server_filters()[0])
        for number in range(10):
            worker.publish(T.up("worker", "message"), b"%d" % number)
        with peer(broker.server_address(), clean=False) as server:
            server.until(lambda: len(server.messages) == 10, "10 queued messages")
        assert not thief.messages
        assert not thief.disconnected


def test_version_5_clients_are_told_the_largest_packet_and_denials(broker: MosquittoBroker) -> None:
    with peer(broker.device_address("modern")) as device:
        assert device.publish(T.up("other", "message"), b"x").getName() == "Not authorized"
        assert not device.publish(T.up("modern", "message"), b"x").is_failure


def test_only_the_aggregator_sees_the_counter_of_dropped_messages(tmp_path: Path) -> None:
    with (
        MosquittoBroker(tmp_path, T, plain=True) as broker,
        peer(broker.server_address()) as server,
        peer(broker.device_address("nosy")) as nosy,
    ):
        assert broker.dropped_topic == DROPPED_TOPIC
        nosy.subscribe("$SYS/#")
        server.subscribe(DROPPED_TOPIC)
        server.until(lambda: server.messages, "the counter")
        assert server.messages[0].topic == DROPPED_TOPIC
        assert int(server.messages[0].payload) == 0
        assert not nosy.messages


def test_more_than_the_default_thousand_messages_wait(tmp_path: Path) -> None:
    """mosquitto's default acknowledges 1100 and keeps 1000."""
    assert MAX_QUEUED_MESSAGES > 1100
    with MosquittoBroker(tmp_path, T, plain=True) as broker:
        with peer(broker.server_address(), clean=False) as server:
            server.subscribe(T.server_filters()[0])
        with peer(broker.device_address("eager")) as device:
            for number in range(1100):
                device.client.publish(T.up("eager", "message"), b"%d" % number, qos=1)
            device.until(lambda: len(device.acks) == 1100, "1100 acknowledgements")
        with peer(broker.server_address(), clean=False) as server:
            server.until(lambda: len(server.messages) == 1100, "1100 messages")


def test_sessions_survive_a_restart_and_a_kill(broker: MosquittoBroker) -> None:
    """SIGTERM saves at once; after `kill -9` what was saved within `autosave_interval` is there."""
    with peer(broker.server_address(), clean=False) as server:
        server.subscribe(T.server_filters()[0])
    with peer(broker.device_address("patient"), clean=False) as device:
        for number in range(5):
            device.publish(T.up("patient", "message"), b"%d" % number)
    broker.restart()
    with peer(broker.server_address(), clean=False) as server:
        assert server.session_present
        server.until(lambda: len(server.messages) == 5, "messages from before the restart")
    database = Path(broker.server_address().ca_file or "").parents[2] / "data" / "mosquitto.db"
    with peer(broker.device_address("patient"), clean=False) as device:
        device.publish(T.up("patient", "message"), b"late")
        before = database.stat().st_mtime_ns
        poll(lambda: database.stat().st_mtime_ns > before, "autosave")
    pid = broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    poll(lambda: broker.pid not in (None, pid) and broker.alive(), "a new mosquitto")
    with peer(broker.server_address(), clean=False) as server:
        server.received(b"late")


def test_revocation_reaches_an_open_connection_and_spares_the_others(
    broker: MosquittoBroker, pki: FleetCA
) -> None:
    """Nobody tells the broker: it notices by itself, as when a command revokes beside the server."""
    address = broker.device_address("lost")
    with (
        peer(broker.server_address()) as server,
        peer(broker.device_address("kept")) as kept,
        peer(address) as lost,
    ):
        server.subscribe(T.server_filters()[0])
        lost.subscribe(T.all("+"))
        pki.revoke("lost")
        lost.until(lambda: lost.disconnected, "disconnection of the revoked device")
        with peer(address, welcome=False) as again:
            again.until(lambda: refused(again), "refusal")
        kept.publish(T.up("kept", "message"), b"still here")
        server.received(b"still here")
        assert not kept.disconnected and not server.disconnected
    with pytest.raises(BrokerError, match="'lost' is revoked; issue it again"):
        broker.device_address("lost")


def test_a_revoked_connection_is_silent_even_if_it_cannot_be_put_off(
    broker: MosquittoBroker, pki: FleetCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise BrokerError("no route")

    monkeypatch.setattr(revocation, "evict", cannot)
    with peer(broker.server_address()) as server, peer(broker.device_address("muted")) as muted:
        server.subscribe(T.server_filters()[0])
        muted.subscribe(T.all("+"))
        pki.revoke("muted")
        poll(lambda: muted.publish(T.up("muted", "message"), b"x").is_failure, "denial")
        heard = len(muted.messages)
        server.publish(T.all("chunk"), b"for the others")
        muted.publish(T.up("muted", "message"), b"after")  # its answer comes after what was sent before
        assert len(muted.messages) == heard
        assert not muted.disconnected


def test_a_device_that_is_issued_again_is_welcome_again(broker: MosquittoBroker, pki: FleetCA) -> None:
    broker.device_address("returning")
    pki.revoke("returning")
    broker.apply_revocations()
    directory = Path(broker.device_address("x").key_file or "").parents[1] / "returning"
    (directory / CERTIFICATE_FILE).write_bytes(
        pki.sign_csr(make_device_key_and_csr(directory, "returning"), "returning")
    )
    broker.apply_revocations()
    with peer(broker.device_address("returning")) as device:
        assert not device.publish(T.up("returning", "message"), b"back").is_failure


def test_evicting_somebody_who_is_not_there_is_harmless(
    broker: MosquittoBroker, pki: FleetCA, tmp_path: Path
) -> None:
    address = replace(broker.server_address(), certificate_file=None, key_file=None)
    evict(pki, address, "nobody", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_second_start_makes_no_second_server_certificate(pki: FleetCA, tmp_path: Path) -> None:
    for _ in range(2):
        with MosquittoBroker(tmp_path, T, pki=pki, names=["pi.example"]) as broker:
            assert broker.alive()
    mine = [entry for entry in pki.ledger().issued if entry.role == "server"]
    with MosquittoBroker(tmp_path, T, pki=pki, names=["other.example"]):
        now = [entry for entry in pki.ledger().issued if entry.role == "server"]
    assert len(now) == len(mine) + 1


def test_no_secret_is_readable_by_others(broker: MosquittoBroker) -> None:
    directory = Path(broker.server_address().ca_file or "").parents[2]
    for path in directory.rglob("*"):
        if path.suffix == ".key" or path.name == "mosquitto.db":
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change whom the broker runs as")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A folder that every user can pass into; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@needs_root
def test_root_gives_mosquitto_its_own_user(open_directory: Path) -> None:
    pki = FleetCA.create(open_directory / "ca", "ward")
    own = pwd.getpwnam("mosquitto")
    with MosquittoBroker(open_directory / "broker", T, pki=pki) as broker:
        process = psutil.Process(broker.pid)
        assert process.uids().real == process.uids().effective == own.pw_uid
        assert process.gids().real == own.pw_gid
        with peer(broker.server_address(), clean=False) as server:
            server.subscribe(T.server_filters()[0])
        broker.restart()
        with peer(broker.server_address(), clean=False) as server:
            assert server.session_present
        with peer(broker.device_address("gone")) as gone:
            pki.revoke("gone")  # it can read the new files as well
            gone.until(lambda: gone.disconnected, "disconnection")


@needs_root
def test_below_a_private_folder_it_stays_root(open_directory: Path) -> None:
    (open_directory / "private").mkdir(mode=0o700)
    assert choose_account(open_directory / "private" / "broker") is None
    account = choose_account(open_directory / "broker")
    assert account is not None and account.name == "mosquitto"
    with MosquittoBroker(open_directory / "private" / "broker", T, plain=True) as broker:
        assert psutil.Process(broker.pid).uids().real == 0


@needs_root
def test_an_ordinary_user_can_run_it(open_directory: Path) -> None:
    """As nobody, in a process of its own."""
    nobody = 65534
    os.chown(open_directory, nobody, nobody)

    def run_as_nobody(python: str, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/usr/bin/env", python, "-c", script, str(open_directory)],
            env={"PYTHONPATH": os.pathsep.join([str(ROOT), *site.getsitepackages()])},
            user=nobody, group=nobody, extra_groups=[], cwd="/",
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    own_kind = f"/usr/bin/python3.{sys.version_info.minor}"
    usable = [sys.executable, own_kind] if Path(own_kind).exists() else [sys.executable]
    imports = "import cryptography.x509, paho.mqtt.client, broker_server"
    python = next((path for path in usable if run_as_nobody(path, imports).returncode == 0), None)
    if python is None:
        pytest.skip("no Python here that other users may run")
    result = run_as_nobody(
        python,
        "import sys; from pathlib import Path\n"
        "from broker_server.broker.factory import open_broker\n"
        "from broker_server.broker.probe import probe\n"
        "from edge_client.wire.topics import Topics\n"
        "from provisioning.pki.authority import FleetCA\n"
        "directory = Path(sys.argv[1]); pki = FleetCA.create(directory / 'ca', 'ward')\n"
        "with open_broker('mosquitto', directory / 'broker', fleet='ward', pki=pki) as broker:\n"
        "    print(probe(broker.server_address(), Topics('ward')).protocol)\n",
    )
    assert result.stdout == "5\n", result.stderr


def test_what_cannot_be_is_said_at_once(
    tmp_path: Path, pki: FleetCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BrokerError, match="needs the fleet's authority"):
        MosquittoBroker(tmp_path, T)
    with pytest.raises(BrokerError, match="plain=True"):
        MosquittoBroker(tmp_path, T, pki=pki, plain=True)
    with pytest.raises(BrokerError, match=r"stays on 127\.0\.0\.1, not 0\.0\.0\.0"):
        MosquittoBroker(tmp_path, T, plain=True, host="0.0.0.0")  # noqa: S104
    with pytest.raises(BrokerError, match="cannot read a path"):
        MosquittoFiles(tmp_path / "a\nlistener 1883")
    with (
        MosquittoBroker(tmp_path, T, plain=True) as broker,
        pytest.raises(BrokerError, match="already started"),
    ):
        broker.start()
    monkeypatch.setattr("broker_server.broker.installed.find_mosquitto", lambda: None)
    with pytest.raises(BrokerError, match="apt install mosquitto"):
        require_mosquitto()


@pytest.mark.parametrize(
    ("prints", "message"),
    [("mosquitto version 1.6.12", "1.6.12 is too old"), ("something else", "does not say its version")],
)
def test_an_old_or_strange_binary_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prints: str, message: str
) -> None:
    fake = tmp_path / "mosquitto"
    fake.write_text(f"#!/bin/sh\necho '{prints}'\n", "ascii")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match=message):
        require_mosquitto()


def test_it_is_found_outside_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Debian it lies in /usr/sbin, which is not on a user's PATH."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_mosquitto()
