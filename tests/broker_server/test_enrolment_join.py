"""From the enrolment service to the broker: a new name is in at once, and a revoked one is out at once."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker_server.broker.embedded import EmbeddedBroker
from broker_server.broker.installed import find_mosquitto
from broker_server.broker.mosquitto import MosquittoBroker
from broker_server.config import BrokerConfig, EnrolmentConfig, ServerConfig
from broker_server.enrolment import JoinRecorder, fleet_enrolment
from broker_server.report.observer import DeviceJoined, Note, NullObserver
from edge_client.config import EdgeConfig
from edge_client.enrolment.enrol import enrol, renew
from edge_client.enrolment.errors import EnrolmentError
from edge_client.session.address import tls_context
from edge_client.session.mqtt import Session
from edge_client.session.tls import NO_CHECK_TIME, ClientContext
from edge_client.wire.topics import Topics
from provisioning.enrolment.errors import EnrolmentServiceError
from provisioning.enrolment.progress import fleet_progress
from provisioning.pki.identity import ensure_identity
from tests.broker_server.mqtt_peer import Peer, peer
from tests.provisioning.enrolment_cases import Fleet, certificate_of

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]
T = Topics("ward")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.create(tmp_path)


@pytest.fixture
def broker(fleet: Fleet) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(fleet.folder / "broker", T, pki=fleet.authority) as running:
        yield running


def at(broker: MosquittoBroker, device: EdgeConfig) -> EdgeConfig:
    """The device, knowing where the broker is."""
    return replace(device, broker=replace(device.broker, port=broker.server_address().port))


def greet(server: Peer, device: EdgeConfig, text: bytes) -> None:
    """The device joins and is heard."""
    with Session(device.broker, device.name, T.device_filters(device.name)) as session:
        session.wait_connected(15.0)
        session.publish(T.up(device.name, "message"), text, timeout_s=15.0)
        server.received(text)


def test_a_device_joins_as_soon_as_it_has_its_certificate(fleet: Fleet, broker: MosquittoBroker) -> None:
    """It enrols beside a broker that runs, is revoked, and comes back with a new card; nothing restarts."""
    pid = broker.pid
    with fleet.service(), peer(broker.server_address()) as server:
        server.subscribe(T.server_filters()[0])
        fleet.token("pi-1")
        device = at(broker, fleet.device("pi-1"))
        enrol(device)
        greet(server, device, b"first")
        with peer(device.broker, client_id="pi-1") as lost:
            fleet.authority.revoke("pi-1")
            lost.until(lambda: lost.disconnected, "disconnection of the revoked device")
        with pytest.raises(EnrolmentError, match="is revoked"):
            renew(device)
        fleet.token("pi-1", folder="new-card")
        again = at(broker, fleet.device("pi-1", folder="new-card"))
        enrol(again)
        greet(server, again, b"second")
        with peer(device.broker, client_id="pi-1", welcome=False) as old_card:
            old_card.until(lambda: old_card.disconnected and old_card.connack is None, "refusal")
    assert broker.pid == pid


def test_a_device_whose_clock_is_behind_joins(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker's certificate is of the future: what a Pi without a clock sees when it was switched on."""
    files = tmp_path / "broker"
    files.mkdir()
    later = datetime.now(UTC) + timedelta(days=30)
    certificate = fleet.authority.issue_server(files / "server.key", ["localhost", "127.0.0.1"], now=later)
    (files / "server.crt").write_bytes(certificate)
    ensure_identity(fleet.authority, tmp_path / "pi-1", "pi-1")
    with MosquittoBroker(files, T, pki=fleet.authority) as broker:
        device = at(broker, fleet.device("pi-1"))
        for protocol in ("auto", "5"):
            address = replace(device.broker, protocol=protocol)
            with Session(address, "pi-1", T.device_filters("pi-1")) as session:
                session.wait_connected(30.0)
    assert "the clock is behind" in caplog.text
    assert (files / "server.crt").read_bytes() == certificate


def test_the_next_connection_is_made_with_the_renewed_certificate(fleet: Fleet) -> None:
    """A context is made once and lives as long as the service; the certificate is renewed beside it."""
    seen: list[bytes | None] = []
    with fleet.service(), socket.create_server(("127.0.0.1", 0)) as listener:
        fleet.token("pi-1")
        device = fleet.device("pi-1")
        enrol(device)
        first = certificate_of(device).read_text()
        context = tls_context(device.broker)
        assert context is not None
        thread = threading.Thread(target=accept_twice, args=(listener, fleet, seen))
        thread.start()
        shake_hands(listener, context)
        fleet.ahead = timedelta(days=300)
        assert renew(device)
        shake_hands(listener, context)
        thread.join()
    assert seen == [ssl.PEM_cert_to_DER_cert(pem) for pem in (first, certificate_of(device).read_text())]


def accept_twice(listener: socket.socket, fleet: Fleet, seen: list[bytes | None]) -> None:
    folder = fleet.authority.directory / "enrolment"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(fleet.authority.certificate_file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= NO_CHECK_TIME
    for _ in range(2):
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(1)
            seen.append(secure.getpeercert(binary_form=True))


def shake_hands(listener: socket.socket, context: ClientContext) -> None:
    with (
        socket.create_connection(listener.getsockname(), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(b"x")


# ---- beside the server ----


class Notes(NullObserver):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, event: Note, /) -> None:
        self.notes.append(event.text)


def settings(fleet: Fleet, **enrolment: object) -> ServerConfig:
    return ServerConfig(
        fleet="ward",
        pki=str(fleet.authority.directory),
        enrolment=EnrolmentConfig(**enrolment),  # type: ignore[arg-type]
    )


def test_the_server_enrols_beside_its_broker_and_writes_down_who_joined(
    fleet: Fleet, broker: MosquittoBroker
) -> None:
    notes = Notes()
    fleet.token("pi-1")
    with fleet_enrolment(settings(fleet, days=30), broker, notes) as observer:
        (note,) = notes.notes
        fleet.port = int(note.rpartition(":")[2])
        outcome = enrol(fleet.device("pi-1"))
        assert outcome.not_after - datetime.now(UTC) <= timedelta(days=30)
        observer.device_joined(DeviceJoined("pi-1", 120))
    assert [(device.name, device.stage) for device in fleet_progress(fleet.authority)] == [("pi-1", "joined")]


def test_the_enrolment_port_is_one_above_the_brokers(fleet: Fleet, broker: MosquittoBroker) -> None:
    taken = broker.server_address().port
    config = replace(settings(fleet), broker=BrokerConfig(port=taken - 1))
    with (
        pytest.raises(EnrolmentServiceError, match=f"port {taken}"),
        fleet_enrolment(config, broker, Notes()),
    ):
        pass


def test_joining_is_written_down_without_the_service_too(fleet: Fleet, broker: MosquittoBroker) -> None:
    notes = Notes()
    ensure_identity(fleet.authority, fleet.folder / "pi-1", "pi-1")
    with fleet_enrolment(settings(fleet, enabled=False), broker, notes) as observer:
        observer.device_joined(DeviceJoined("pi-1", 120))
    assert notes.notes == []
    assert [device.stage for device in fleet_progress(fleet.authority)] == ["joined"]


def test_other_brokers_have_no_enrolment(fleet: Fleet) -> None:
    notes = Notes()
    embedded = EmbeddedBroker(fleet.folder / "embedded", T)
    with ExitStack() as stack:
        assert stack.enter_context(fleet_enrolment(settings(fleet), embedded, notes)) is notes
    assert notes.notes == []


def test_a_full_disk_does_not_stop_the_run(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    class FullDesk:
        def joined(self, _name: str) -> None:
            raise OSError("no space left")

    caplog.set_level(logging.WARNING)
    JoinRecorder(FullDesk()).device_joined(DeviceJoined("pi-1", 1))  # type: ignore[arg-type]
    assert "pi-1 joined, which could not be written down: no space left" in caplog.text
