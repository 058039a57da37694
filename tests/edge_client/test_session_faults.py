"""The session when the broker, the library or the reader misbehaves: it says so, and it comes back."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from edge_client.session.address import BrokerAddress
from edge_client.session.inbox import ConnectionChange, Inbox, Incoming
from edge_client.session.mqtt import Session
from tests.edge_client.scripted_broker import ScriptedBroker, publish_packet

WAIT_S = 15.0
GOOD = publish_packet(b"x", b"good", 7)
NOT_UTF8 = publish_packet(b"\xff\xfe", b"bad", 6)
MALFORMED = b"\x32\x01\x00"  # a PUBLISH that ends in the middle of its topic's length: paho raises


def receive(session: Session, wanted: Callable[[Incoming | ConnectionChange], bool]) -> object:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        item = session.receive(0.5)
        if item is not None and wanted(item):
            return item
    raise AssertionError("nothing came")


def is_up(item: object) -> bool:
    return isinstance(item, ConnectionChange) and item.connected


def is_down(item: object) -> bool:
    return isinstance(item, ConnectionChange) and not item.connected


def is_message(item: object) -> bool:
    return isinstance(item, Incoming)


def session(broker: ScriptedBroker, **options: object) -> Session:
    return Session(broker.address(), "pi-1", ["x"], **options)  # type: ignore[arg-type]


def test_a_topic_that_is_not_utf8_costs_its_message_only() -> None:
    with ScriptedBroker(on_subscribed=NOT_UTF8 + GOOD) as broker, session(broker) as device:
        received = receive(device, is_message)
        assert isinstance(received, Incoming)
        assert received.payload == b"good"
        assert device.connected
        broker.wait_for(lambda: broker.acknowledged == [(1, 6), (1, 7)])  # or it would come again for ever
        assert broker.connections == 1


def test_when_the_librarys_thread_fails_it_is_replaced() -> None:
    with ScriptedBroker() as broker, session(broker) as device:
        receive(device, is_up)
        broker.send(MALFORMED)
        receive(device, is_down)
        receive(device, is_up)
        assert device.connected
        assert broker.connections == 2
        broker.send(GOOD)
        assert receive(device, is_message)


def test_when_a_callback_fails_the_connection_is_made_anew_and_nothing_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inbox = Inbox()
    put, failures = inbox.put, [MemoryError("no room")]

    def fails_once(item: Incoming) -> bool:
        if failures:
            raise failures.pop()
        return put(item)

    monkeypatch.setattr(inbox, "put", fails_once)
    with ScriptedBroker(on_subscribed=GOOD) as broker, session(broker, inbox=inbox) as device:
        assert receive(device, is_message)
        broker.wait_for(lambda: broker.acknowledged == [(2, 7)])


def test_a_refused_subscription_is_no_connection_and_is_tried_again() -> None:
    with ScriptedBroker(refuse_subscriptions=2) as broker, session(broker) as device:
        for _ in range(2):
            item = device.receive(WAIT_S)
            assert isinstance(item, ConnectionChange)
            assert "refused a subscription" in item.reason
            assert not item.connected
        assert is_up(device.receive(WAIT_S))
        assert broker.connections == 3


def test_a_full_inbox_makes_the_broker_send_again() -> None:
    packets = [publish_packet(b"x", bytes([mid]), mid) for mid in (1, 2, 3)]
    inbox = Inbox(messages=2)
    with (
        ScriptedBroker(on_subscribed=b"".join(packets)) as broker,
        session(broker, inbox=inbox, manual_ack=True) as server,
    ):
        broker.wait_for(lambda: broker.goodbyes == 1)  # and no last will
        assert broker.acknowledged == []
        broker.on_subscribed = packets[2]  # as a broker does that has acknowledgements of the others
        got = []
        while len(got) < 3:
            got.append(receive(server, is_message))
        assert [item.payload[0] for item in got if isinstance(item, Incoming)] == [1, 2, 3]
        assert broker.connections == 2
        for item in got:
            assert isinstance(item, Incoming)
            item.acknowledge()
        broker.wait_for(
            lambda: broker.acknowledged == [(2, 3)]
        )  # the others' numbers were the old connection's


def test_a_host_name_that_cannot_be_is_said_and_tried_again() -> None:
    address = BrokerAddress("x" * 100, 1883, protocol="3.1.1")  # a label of more than 63: UnicodeError
    with Session(address, "pi-1", ["x"]) as device:
        assert is_down(device.receive(WAIT_S))
        assert is_down(device.receive(WAIT_S))


def test_leaving_is_quick() -> None:
    with ScriptedBroker() as broker, session(broker) as device:
        receive(device, is_up)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5.0
    assert not device.connected


def message(size: int) -> Incoming:
    return Incoming("x", bytes(size), False, lambda: None)


def test_the_inbox_is_bounded_in_bytes_and_messages() -> None:
    inbox = Inbox(messages=3, size=100)
    assert inbox.put(message(60))
    assert not inbox.put(message(41))
    assert inbox.put(message(40))
    assert not inbox.has_room()
    assert is_message(inbox.get(0))
    assert is_message(inbox.get(0))
    assert inbox.has_room()
    assert all(inbox.put(message(1)) for _ in range(3))
    assert not inbox.put(message(1))


def test_news_of_the_connection_is_never_dropped() -> None:
    inbox = Inbox(messages=1, size=10)
    assert inbox.put(message(10))
    inbox.note(ConnectionChange(False, "lost"))
    inbox.note(ConnectionChange(True, "connected"))
    assert is_message(inbox.get(0))
    assert is_down(inbox.get(0))
    assert is_up(inbox.get(0))
    assert inbox.get(0) is None
