"""The MQTT session against real brokers: what arrives, what comes back by itself, what is refused."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker_server.broker.base import Broker
from broker_server.broker.factory import open_broker
from broker_server.broker.installed import find_mosquitto
from edge_client.session.address import AddressError, BrokerAddress
from edge_client.session.mqtt import (
    ConnectionChange,
    Incoming,
    LastWill,
    Session,
    SessionError,
)
from edge_client.wire.frame import MAX_FRAME_BYTES
from edge_client.wire.topics import AGGREGATOR, CHUNK, MESSAGE, STATUS, Topics

TOPICS = Topics("test")
WAIT_S = 60.0  # a busy machine: it is not what is measured here


@pytest.fixture(scope="module", params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A private broker without certificates or an access list: these tests are of delivery alone."""
    if request.param == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    directory = tmp_path_factory.mktemp(request.param)
    with open_broker(request.param, directory, fleet="test", plain=request.param == "mosquitto") as broker:
        yield broker


def receive(session: Session, wanted: Callable[[object], bool]) -> object:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        item = session.receive(0.5)
        if item is not None and wanted(item):
            return item
    raise AssertionError("nothing came")


def message_on(topic: str) -> Callable[[object], bool]:
    return lambda item: isinstance(item, Incoming) and item.topic == topic


def server(broker: Broker, **options: object) -> Session:
    return Session(broker.server_address(), AGGREGATOR, TOPICS.server_filters(), **options)


def device(broker: Broker, name: str, **options: object) -> Session:
    return Session(broker.device_address(name), name, TOPICS.device_filters(name), **options)


def test_a_message_and_the_largest_frame_arrive(broker: Broker) -> None:
    topic = TOPICS.up("pi-1", CHUNK)
    with server(broker) as inbox, device(broker, "pi-1") as outbox:
        inbox.wait_connected(WAIT_S)
        outbox.wait_connected(WAIT_S)
        outbox.publish(topic, bytes(MAX_FRAME_BYTES), timeout_s=WAIT_S)
        received = receive(inbox, message_on(topic))
        assert isinstance(received, Incoming)
        assert received.payload == bytes(MAX_FRAME_BYTES)


def test_many_messages_keep_their_order(broker: Broker) -> None:
    topic = TOPICS.up("pi-2", MESSAGE)
    with server(broker) as inbox, device(broker, "pi-2") as outbox:
        inbox.wait_connected(WAIT_S)
        outbox.wait_connected(WAIT_S)
        outbox.publish_many(((topic, bytes([i])) for i in range(50)), timeout_s=WAIT_S)
        got = [receive(inbox, message_on(topic)) for _ in range(50)]
        assert [item.payload[0] for item in got if isinstance(item, Incoming)] == list(range(50))


def test_the_last_will_tells_of_a_lost_device(broker: Broker) -> None:
    topic = TOPICS.up("pi-3", STATUS)
    with server(broker) as inbox:
        inbox.wait_connected(WAIT_S)
        lost = device(broker, "pi-3", will=LastWill(topic, b"gone"))
        with lost:
            lost.wait_connected(WAIT_S)
            here = TOPICS.up("pi-3", MESSAGE)
            lost.publish(here, b"here")
            receive(inbox, message_on(here))  # the broker is done with its CONNECT, will included
            client = lost._client
            assert client is not None
            client.loop_stop()
            client.socket().close()  # as when the power goes: no DISCONNECT
            received = receive(inbox, message_on(topic))
            assert isinstance(received, Incoming)
            assert received.payload == b"gone"


def test_who_comes_back_before_the_broker_noticed_the_loss_hears_everything(broker: Broker) -> None:
    topic = TOPICS.up("pi-8", MESSAGE)
    with server(broker) as lost, device(broker, "pi-8") as outbox:
        lost.wait_connected(WAIT_S)
        silent = lost._client
        assert silent is not None
        silent.loop_stop()  # its connection stays open, as when the power goes: the broker knows nothing yet
        with server(broker) as inbox:
            inbox.wait_connected(WAIT_S)
            outbox.wait_connected(WAIT_S)
            outbox.publish(topic, b"heard?", timeout_s=WAIT_S)
            assert receive(inbox, message_on(topic))


def test_it_comes_back_after_the_brokers_restart_with_its_subscriptions(
    broker: Broker, tmp_path: Path
) -> None:
    with server(broker) as inbox, device(broker, "pi-4") as outbox:
        inbox.wait_connected(WAIT_S)
        outbox.wait_connected(WAIT_S)
        broker.restart()
        receive(inbox, lambda item: isinstance(item, ConnectionChange) and not item.connected)
        receive(inbox, lambda item: isinstance(item, ConnectionChange) and item.connected)
        outbox.wait_connected(WAIT_S)
        topic = TOPICS.up("pi-4", MESSAGE)
        deadline = time.monotonic() + WAIT_S
        while True:  # its connection may be the old one for a moment yet
            try:
                outbox.publish(topic, b"again", timeout_s=2.0)
                break
            except SessionError:
                assert time.monotonic() < deadline
        assert receive(inbox, message_on(topic))


def test_small_packets_do_not_wait_for_each_other(broker: Broker) -> None:
    with server(broker) as session:
        session.wait_connected(WAIT_S)
        assert session._client is not None
        assert session._client.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_publishing_without_a_connection_is_an_error_not_a_queue(free_address: BrokerAddress) -> None:
    with Session(free_address, "pi-5", ["x"]) as session:
        with pytest.raises(SessionError, match="not connected"):
            session.publish("bramble/1/test/up/pi-5/message", b"x")
        with pytest.raises(SessionError, match="no connection to the broker at"):
            session.wait_connected(0.2)


def test_it_connects_when_the_broker_comes_later(tmp_path: Path) -> None:
    with open_broker("embedded", tmp_path / "first", fleet="test") as first:
        address = first.device_address("pi-6")
    with Session(address, "pi-6", TOPICS.device_filters("pi-6")) as session:
        receive(session, lambda item: isinstance(item, ConnectionChange) and not item.connected)
        with open_broker("embedded", tmp_path / "second", fleet="test", port=address.port):
            session.wait_connected(WAIT_S)


def test_auto_finds_the_protocol(broker: Broker) -> None:
    plain = broker.device_address("pi-7")
    address = BrokerAddress(plain.host, plain.port, protocol="auto", username=plain.username)
    with Session(address, "pi-7", TOPICS.device_filters("pi-7")) as session:
        session.wait_connected(WAIT_S)


def test_missing_files_are_the_callers_error(free_address: BrokerAddress, tmp_path: Path) -> None:
    address = BrokerAddress("127.0.0.1", free_address.port, ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(AddressError, match=r"none\.pem"), Session(address, "pi-8", ["x"]):
        pass


@pytest.fixture
def free_address() -> BrokerAddress:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return BrokerAddress("127.0.0.1", probe.getsockname()[1], protocol="5")
