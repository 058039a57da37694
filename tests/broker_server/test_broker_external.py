"""A broker by URL: what is asked of it at the start, and what is said when it does not answer well."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from broker_server.broker.base import BrokerError
from broker_server.broker.external import MIN_PACKET_BYTES, Credentials, ExternalBroker, parse_broker_url
from broker_server.broker.factory import open_broker
from broker_server.broker.installed import find_mosquitto
from broker_server.broker.link import WrongVersionError
from broker_server.broker.mosquitto import MosquittoBroker
from broker_server.broker.probe import probe
from broker_server.broker.sockets import check_port, is_listening
from edge_client.session.address import BrokerAddress
from edge_client.wire.topics import Topics
from provisioning.pki.authority import FleetCA
from tests.broker_server.mqtt_peer import peer, poll

T = Topics("ward")
needs_mosquitto = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]


def with_mosquitto(test: object) -> object:
    for mark in needs_mosquitto:
        test = mark(test)
    return test


@contextmanager
def foreign_mosquitto(directory: Path, *lines: str) -> Iterator[int]:
    """A mosquitto as somebody else would set it up; the port it listens on."""
    port = check_port("127.0.0.1", 0)
    config = directory / "foreign.conf"
    config.write_text("\n".join(["user root", f"listener {port} 127.0.0.1", *lines]) + "\n", "utf-8")
    with subprocess.Popen([find_mosquitto() or "", "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            poll(lambda: is_listening("127.0.0.1", port), "foreign broker")
            yield port
        finally:
            process.terminate()


@with_mosquitto
def test_it_reports_what_the_broker_says(tmp_path: Path) -> None:
    with foreign_mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 300000") as port:
        broker = open_broker(f"mqtt://127.0.0.1:{port}", tmp_path, fleet="ward")
        assert "not tried yet" in broker.describe()
        with broker:
            assert broker.alive()
            assert broker.server_address() == broker.device_address("pi-1")
            assert broker.server_address().protocol == "5"
            assert broker.describe() == (
                f"external at mqtt://127.0.0.1:{port}, MQTT 5, packets up to 300000 bytes"
            )
            broker.apply_revocations()
            broker.restart()
        assert broker.alive()  # stopping it is not ours to do
    assert not broker.alive()


@with_mosquitto
def test_the_probe_is_not_retained_and_leaves_no_session(tmp_path: Path) -> None:
    with foreign_mosquitto(
        tmp_path, "allow_anonymous true", "sys_interval 1", "persistent_client_expiration 1d"
    ) as port:
        address = BrokerAddress(host="127.0.0.1", port=port)
        for version in ("auto", "5", "3.1.1"):
            report = probe(replace(address, protocol=version), T)
            assert report.protocol == ("3.1.1" if version == "3.1.1" else "5")
            assert report.round_trip_s is not None and 0 < report.round_trip_s < 5
        with peer(replace(address, protocol="5", username="observer")) as observer:
            observer.subscribe(f"{T.prefix}/#")
            observer.subscribe("$SYS/broker/clients/total")
            observer.until(
                lambda: b"1" in observer.payloads(), "a broker that knows one client, the observer"
            )
            assert all(message.topic.startswith("$SYS/") for message in observer.messages)


@with_mosquitto
def test_a_session_with_queued_messages_survives_the_probe(tmp_path: Path) -> None:
    """A server that comes back probes a broker that names clients by certificate: its queue must be kept."""
    pki = FleetCA.create(tmp_path / "ca", "ward")
    with MosquittoBroker(tmp_path / "broker", T, pki=pki) as far:
        with peer(far.server_address(), clean=False) as server:
            server.subscribe(T.server_filters()[0])
        with peer(far.device_address("pi-1")) as device:
            device.publish(T.up("pi-1", "message"), b"precious")
        assert probe(far.server_address(), T).round_trip_s is None
        with peer(far.server_address(), clean=False) as server:
            server.received(b"precious")


@with_mosquitto
def test_a_user_name_and_a_password_from_the_url_or_a_file(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "fleet", "p@ss:word"], check=True)
    with foreign_mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}") as port:
        url = f"mqtt://fleet:p%40ss%3Aword@127.0.0.1:{port}"
        with open_broker(url, tmp_path / "a", fleet="ward") as broker:
            address = broker.server_address()
        assert address.username == "fleet"
        secret = Path(address.password_file or "")
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert "word" not in str(address) + broker.describe()
        credentials = Credentials(password_file=secret)
        with open_broker(f"mqtt://fleet@127.0.0.1:{port}", tmp_path, fleet="ward", credentials=credentials):
            pass
        for wrong in (f"mqtt://fleet:nonsense@127.0.0.1:{port}", f"mqtt://127.0.0.1:{port}"):
            with pytest.raises(BrokerError, match=r"refuses: .*; check the user name") as error:
                open_broker(wrong, tmp_path / "b", fleet="ward").start()
            assert "nonsense" not in str(error.value)


@with_mosquitto
def test_a_broker_whose_rules_swallow_the_probe_is_found_out(tmp_path: Path) -> None:
    """mosquitto grants the subscription and acknowledges the publish; only the message tells."""
    acl = tmp_path / "acl"
    acl.write_text("topic write #\n", "ascii")
    with foreign_mosquitto(tmp_path, "allow_anonymous true", f"acl_file {acl}") as port:
        address = BrokerAddress(host="127.0.0.1", port=port)
        with pytest.raises(
            BrokerError, match=r"did not deliver it: let aggregator read and write bramble/1/ward/#"
        ):
            probe(address, T, timeout_s=1.0)


@with_mosquitto
def test_a_packet_limit_below_a_chunk_is_refused(tmp_path: Path) -> None:
    with foreign_mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 100000") as port:
        broker = open_broker(f"mqtt://127.0.0.1:{port}", tmp_path, fleet="ward")
        with pytest.raises(BrokerError, match=rf"100000 bytes at most, chunks need {MIN_PACKET_BYTES}"):
            broker.start()


@with_mosquitto
def test_mutual_tls_by_url(tmp_path: Path) -> None:
    pki = FleetCA.create(tmp_path / "ca", "ward")
    with MosquittoBroker(tmp_path / "broker", T, pki=pki, host="0.0.0.0") as far:  # noqa: S104
        own, url = far.server_address(), f"mqtts://localhost:{far.server_address().port}"
        files = (own.ca_file, own.certificate_file, own.key_file)
        credentials = Credentials(*(Path(name) for name in files if name))
        with open_broker(url, tmp_path, fleet="ward", credentials=credentials) as broker:
            assert broker.server_address().ca_file == own.ca_file
        foreign = FleetCA.create(tmp_path / "foreign", "ward").certificate_file
        with pytest.raises(BrokerError, match=r"certificate is not trusted .*check ca_file"):
            open_broker(url, tmp_path, fleet="ward", credentials=Credentials(ca_file=foreign)).start()
        with pytest.raises(BrokerError, match="certificate is not trusted"):  # the system's authorities
            open_broker(url, tmp_path, fleet="ward").start()
        nameless = Credentials(ca_file=pki.certificate_file)
        with pytest.raises(BrokerError, match="closed the connection without an answer"):
            open_broker(url, tmp_path, fleet="ward", credentials=nameless).start()
        with pytest.raises(BrokerError, match=r"certificate is not trusted .*host name"):
            probe(replace(own, host="127.0.0.2"), T)  # not one of the names in its certificate
        pki.revoke("aggregator")
        far.apply_revocations()
        with pytest.raises(BrokerError, match="has revoked it"):
            open_broker(url, tmp_path, fleet="ward", credentials=credentials).start()


@with_mosquitto
def test_tls_where_there_is_none(tmp_path: Path) -> None:
    with foreign_mosquitto(tmp_path, "allow_anonymous true") as port:
        ca = FleetCA.create(tmp_path / "ca", "ward").certificate_file
        address = BrokerAddress(host="127.0.0.1", port=port, ca_file=str(ca))
        with pytest.raises(BrokerError, match=r"TLS.*; check the port"):
            probe(address, T)


def test_a_broker_of_version_311_only_is_spoken_to_in_311(tmp_path: Path) -> None:
    """amqtt as pip brings it, with nothing of ours inside."""
    port = check_port("127.0.0.1", 0)
    script = (
        "import asyncio; from amqtt.broker import Broker\n"
        "async def main():\n"
        f"    broker = Broker({{'listeners': {{'default': {{'type': 'tcp', 'bind': '127.0.0.1:{port}'}}}},\n"
        "        'plugins': {'amqtt.plugins.authentication.AnonymousAuthPlugin': {}}})\n"
        "    await broker.start(); await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        try:
            poll(lambda: is_listening("127.0.0.1", port), "amqtt")
            with open_broker(f"mqtt://127.0.0.1:{port}", tmp_path, fleet="ward") as broker:
                assert broker.server_address().protocol == "3.1.1"
                assert "MQTT 3.1.1, packet size limit not announced" in broker.describe()
            with pytest.raises(WrongVersionError, match="is it an MQTT 5 broker"):
                probe(BrokerAddress(host="127.0.0.1", port=port, protocol="5"), T, timeout_s=1.0)
        finally:
            process.terminate()


def test_nothing_there(tmp_path: Path) -> None:
    port = check_port("127.0.0.1", 0)
    with pytest.raises(BrokerError, match="refused: nothing listens there"):
        open_broker(f"mqtt://127.0.0.1:{port}", tmp_path, fleet="ward").start()


def test_a_name_that_nobody_has(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"check that 'broker\.invalid' is the broker's name"):
        open_broker("mqtt://broker.invalid", tmp_path, fleet="ward").start()


def test_something_that_listens_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = BrokerAddress(host="127.0.0.1", port=mute.getsockname()[1])
        with pytest.raises(BrokerError, match="did not answer in time"):
            probe(address, T, timeout_s=0.3)


def test_something_that_is_no_broker() -> None:
    """It hangs up on both versions; one clear error, no endless retry."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(1)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        address = BrokerAddress(host="127.0.0.1", port=server.getsockname()[1])
        with pytest.raises(BrokerError, match="closed the connection without an answer"):
            probe(address, T, timeout_s=5)
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "url",
    ["http://host", "mqtt://", "mqtt://host:port", "mqtt://host:99999", "mqtt://host/path", "mqtt://host:0",
     "mqtt://host?x=1", "ws://host", "mqtt://u:hunter2@", "mqtt://u:hunter2@host:x", "mqtt://:hunter2@host"],
)  # fmt: skip
def test_a_url_that_is_not_one_is_refused_without_showing_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(BrokerError) as error:
        parse_broker_url(url, Credentials(), tmp_path)
    assert "hunter2" not in str(error.value)
    assert list(tmp_path.glob("*")) == []


def test_url_defaults(tmp_path: Path) -> None:
    assert parse_broker_url("mqtt://host", Credentials(), tmp_path).port == 1883
    secure = parse_broker_url("mqtts://[::1]/", Credentials(ca_file=Path("/ca")), tmp_path)
    assert (secure.host, secure.port, secure.ca_file, str(secure)) == (
        "::1",
        8883,
        "/ca",
        "mqtts://[::1]:8883",
    )


def test_certificates_without_encryption_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="certificate files need mqtts://"):
        parse_broker_url("mqtt://host", Credentials(ca_file=Path("/ca")), tmp_path)
    with pytest.raises(BrokerError, match="go together"):
        parse_broker_url("mqtts://host", Credentials(key_file=Path("/key")), tmp_path)


def test_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_broker("embedded", tmp_path, fleet="f").kind == "embedded"
    assert isinstance(open_broker("mqtt://h", tmp_path, fleet="f"), ExternalBroker)
    with pytest.raises(BrokerError, match="unknown broker 'rabbit'; choose auto, embedded"):
        open_broker("rabbit", tmp_path, fleet="f")
    with pytest.raises(BrokerError, match="fleet"):
        open_broker("embedded", tmp_path, fleet="a/b")
    with pytest.raises(BrokerError, match=r"stays on 127\.0\.0\.1, not 10\.0\.0\.1"):
        open_broker("embedded", tmp_path, fleet="f", host="10.0.0.1")
    monkeypatch.setattr("broker_server.broker.factory.find_mosquitto", lambda: None)
    assert open_broker("auto", tmp_path, fleet="f").kind == "embedded"
    with pytest.raises(BrokerError, match="needs mosquitto: apt install"):
        open_broker("auto", tmp_path, fleet="f", host="10.0.0.1")
    monkeypatch.setattr("broker_server.broker.embedded.find_spec", lambda _name: None)
    with pytest.raises(BrokerError, match=r"pip install 'bramble\[server\]'"):
        open_broker("embedded", tmp_path, fleet="f")


@pytest.mark.parametrize("kind", ["embedded", pytest.param("mosquitto", marks=needs_mosquitto)])
def test_in_a_closed_network_brokers_listen_where_they_are_told(kind: str, tmp_path: Path) -> None:
    other = "127.0.0.2"
    with open_broker(kind, tmp_path, fleet="f", host=other, plain=True, closed=True) as broker:
        port = broker.device_address("d").port
        assert is_listening(other, port) and not is_listening("127.0.0.1", port)
        assert broker.device_address("d").host == broker.server_address().host == other
        assert "a closed network only" in broker.describe()


@with_mosquitto
def test_auto_takes_mosquitto_where_it_is(tmp_path: Path) -> None:
    assert open_broker("auto", tmp_path, fleet="f", plain=True).kind == "mosquitto"


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_an_address_of_another_machine_cannot_be_listened_on(host: str) -> None:
    with pytest.raises(BrokerError, match="cannot listen on"):
        check_port(host, 0)
