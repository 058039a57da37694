"""What every broker that we start must do: one suite, run against the real amqtt and the real mosquitto."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from broker_server.broker.base import MAX_PACKET_BYTES, Broker, BrokerError
from broker_server.broker.factory import open_broker
from broker_server.broker.installed import find_mosquitto
from broker_server.broker.sockets import check_port
from edge_client.wire.topics import AGGREGATOR, Topics
from provisioning.pki.authority import FleetCA
from tests.broker_server.mqtt_peer import peer, poll

FLEET = "ward"
T = Topics(FLEET)
ROOT = Path(__file__).resolve().parents[2]
KINDS = [
    "embedded",
    pytest.param("plain", marks=pytest.mark.mosquitto),
    pytest.param("tls", marks=pytest.mark.mosquitto),
]


@pytest.fixture(scope="module", params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Broker]:
    """Opens brokers of one kind, each in its own directory."""
    if request.param != "embedded" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")

    def opened(**options: object) -> Broker:
        directory = tmp_path_factory.mktemp("with space") / "broker"
        if request.param == "plain":
            return open_broker("mosquitto", directory, fleet=FLEET, plain=True, **options)
        if request.param == "tls":
            pki = FleetCA.create(directory.parent / "pki", FLEET)
            return open_broker("mosquitto", directory, fleet=FLEET, pki=pki, **options)
        return open_broker("embedded", directory, fleet=FLEET, **options)

    return opened


@pytest.fixture(scope="module")
def broker(make: Callable[..., Broker]) -> Iterator[Broker]:
    with make() as running:
        yield running


def test_it_listens_on_loopback_only_and_says_so(broker: Broker) -> None:
    address = broker.server_address()
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(broker.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert broker.alive()
    assert str(address.port) in broker.describe() and broker.kind in broker.describe()


def test_both_ways_between_a_device_and_the_aggregator(broker: Broker) -> None:
    with peer(broker.server_address()) as server, peer(broker.device_address("both-1")) as device:
        server.subscribe(T.server_filters()[0])
        for topic_filter in T.device_filters("both-1"):
            assert not device.subscribe(topic_filter).is_failure
        device.publish(T.up("both-1", "message"), b"up")
        assert server.received(b"up").topic == T.up("both-1", "message")
        server.publish(T.down("both-1", "message"), b"down")
        server.publish(T.all("chunk"), b"all")
        assert device.received(b"down").topic == T.down("both-1", "message")
        assert device.received(b"all").topic == T.all("chunk")


def test_a_device_cannot_write_in_anothers_name_or_to_all(broker: Broker) -> None:
    """The uplink of one connection is in order, so the message after the denied ones proves them lost."""
    with peer(broker.server_address()) as server, peer(broker.device_address("liar")) as device:
        server.subscribe(f"{T.prefix}/#")
        forbidden = [
            T.up("honest", "message"),
            T.down("liar", "message"),
            T.all("task"),
            f"{T.prefix}/up/liar2/x",
        ]
        for topic in [*forbidden, "elsewhere", "bramble/1/other/up/liar/message"]:
            device.publish(topic, b"forged")
        device.publish(T.up("liar", "message"), b"own")
        server.received(b"own")
        assert server.payloads() == [b"own"]


def test_a_device_cannot_listen_to_others(broker: Broker) -> None:
    with (
        peer(broker.server_address()) as server,
        peer(broker.device_address("nosy")) as nosy,
        peer(broker.device_address("calm")) as calm,
    ):
        for topic_filter in (
            "#",
            "+/+/+/+/+/+",
            f"{T.prefix}/#",
            T.down("calm", "#"),
            f"{T.prefix}/down/+/+",
        ):
            nosy.subscribe(topic_filter)
        nosy.subscribe(T.down("nosy", "#"))
        calm.publish(T.up("calm", "message"), b"private")
        server.publish(T.down("calm", "message"), b"secret")
        server.publish(T.down("nosy", "message"), b"mine")
        nosy.received(b"mine")
        assert set(nosy.payloads()) == {b"mine"}


def test_retained_messages_reach_only_their_subscribers(broker: Broker) -> None:
    """Stock amqtt sends a new client the retained messages of everyone's subscriptions."""
    with peer(broker.server_address()) as server:
        server.subscribe(f"{T.prefix}/#")
        server.publish(T.down("owner", "message"), b"for owner", retain=True)
        server.publish(T.all("task"), b"task", retain=True)
        with peer(broker.device_address("owner")) as owner:
            owner.subscribe(T.down("owner", "+"))
            owner.received(b"for owner")
            with peer(broker.device_address("newcomer")) as newcomer:
                newcomer.subscribe(T.down("newcomer", "+"))
                server.publish(T.down("newcomer", "message"), b"hello")
                newcomer.received(b"hello")
                assert newcomer.payloads() == [b"hello"]
                newcomer.subscribe(T.all("+"))
                assert newcomer.received(b"task").retain
        for topic in (T.down("owner", "message"), T.all("task")):
            server.publish(topic, b"", retain=True)


def test_an_empty_message_takes_a_retained_one_away(broker: Broker) -> None:
    """What is published next comes first: nothing of the retained message is left."""
    with peer(broker.server_address()) as server, peer(broker.device_address("late")) as device:
        server.publish(T.all("release"), b"offer", retain=True)
        server.publish(T.all("release"), b"", retain=True)
        device.subscribe(T.all("release"))
        server.publish(T.all("release"), b"next")
        device.received(b"next")
        assert device.payloads() == [b"next"]


def test_messages_wait_for_a_device_that_is_away(broker: Broker) -> None:
    address = broker.device_address("sleeper")
    with peer(address, clean=False) as device:
        device.subscribe(T.down("sleeper", "+"))
    with peer(broker.server_address()) as server:
        for number in range(20):
            server.publish(T.down("sleeper", "message"), b"%d" % number)
    with peer(address, clean=False) as device:
        assert device.session_present
        device.until(lambda: len(device.messages) == 20, "20 messages")
        assert sorted(device.payloads(), key=int) == [b"%d" % number for number in range(20)]


def test_the_last_will_is_sent_when_a_device_dies(broker: Broker, tmp_path: Path) -> None:
    with peer(broker.server_address()) as server:
        server.subscribe(T.server_filters()[0])
        address = broker.device_address("mortal")
        script = (
            "import os, sys; sys.path[:0] = sys.argv[1:3]\n"
            "from edge_client.session.address import BrokerAddress, tls_context\n"
            "import paho.mqtt.client as mqtt\n"
            f"address = {address!r}\n"
            f"v5 = {address.protocol == '5'}\n"
            "client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, 'mortal', protocol=5 if v5 else 4)\n"
            f"client.will_set({T.up('mortal', 'status')!r}, b'gone', qos=1)\n"
            "if address.username: client.username_pw_set(address.username)\n"
            "if tls_context(address): client.tls_set_context(tls_context(address))\n"
            "client.on_connect = lambda *_: os.kill(os.getpid(), 9)\n"
            "client.connect(address.host, address.port); client.loop_forever()\n"
        )
        died = subprocess.run([sys.executable, "-c", script, str(ROOT)], timeout=30, check=False)
        assert died.returncode == -signal.SIGKILL
        server.received(b"gone")


def test_a_packet_that_is_too_large_ends_its_connection_and_nobody_elses(broker: Broker) -> None:
    with peer(broker.server_address()) as server, peer(broker.device_address("big")) as device:
        server.subscribe(T.server_filters()[0])
        largest = bytes(MAX_PACKET_BYTES - 100)
        device.publish(T.up("big", "chunk"), largest)
        server.until(lambda: len(server.messages) == 1, "the largest packet")
        device.client.publish(T.up("big", "chunk"), bytes(MAX_PACKET_BYTES + 1), qos=1)
        device.until(lambda: device.disconnected, "disconnection")
        with peer(broker.device_address("small")) as other:
            other.publish(T.up("small", "chunk"), b"fine")
            server.received(b"fine")
        assert len(server.messages) == 2


def test_who_claims_another_client_identifier_does_not_get_it(broker: Broker) -> None:
    """Either the broker refuses, or it gives the client its own name; the aggregator stays connected."""
    with peer(broker.server_address(), clean=False) as server:
        server.subscribe(T.server_filters()[0])
        with peer(broker.device_address("thief"), client_id=AGGREGATOR, welcome=False) as thief:
            thief.until(lambda: thief.connack is not None or thief.disconnected, "an answer")
        with peer(broker.device_address("witness")) as witness:
            witness.publish(T.up("witness", "message"), b"still there?")
        if broker.kind == "mosquitto":  # amqtt lets the thief end the connection before it refuses him
            server.received(b"still there?")
            assert not server.disconnected
        else:
            assert thief.connack.is_failure


def test_a_client_without_a_name_is_refused(broker: Broker) -> None:
    address = broker.device_address("named")
    if address.username is None:
        pytest.skip("the certificate is the name; see test_broker_mosquitto.py")
    with peer(address, username=None, client_id="nameless", welcome=False) as nameless:
        nameless.until(lambda: nameless.connack is not None and nameless.connack.is_failure, "refusal")


def test_subscribing_while_messages_flow_loses_none(broker: Broker) -> None:
    """amqtt with an ACL plug-in loses messages to the second subscriber when a third subscribes meanwhile."""
    count = 150
    with (
        peer(broker.server_address()) as server,
        peer(broker.device_address("first")) as first,
        peer(broker.device_address("second")) as second,
        peer(broker.device_address("joiner")) as joiner,
    ):
        first.subscribe(T.all("+"))
        second.subscribe(T.all("#"))
        for number in range(count):
            server.client.publish(T.all("chunk"), b"%d" % number, qos=1)
            joiner.client.subscribe(T.down("joiner", str(number)), qos=1)
        for device in (first, second):
            device.until(lambda device=device: len(device.messages) >= count, f"all {count} messages")
            assert sorted(map(int, device.payloads())) == list(range(count))


def test_restart_keeps_the_port(make: Callable[..., Broker]) -> None:
    with make() as broker:
        address, before = broker.server_address(), broker.pid
        broker.restart()
        assert broker.alive() and broker.pid != before
        assert broker.server_address() == address
        with peer(address):
            pass
    assert not broker.alive()
    broker.stop()


def test_a_killed_broker_comes_back_by_itself(make: Callable[..., Broker]) -> None:
    with make() as broker:
        address, before = broker.server_address(), broker.pid
        os.kill(before, signal.SIGKILL)
        poll(lambda: broker.pid not in (None, before) and broker.alive(), "new broker")
        with peer(address) as server:
            server.subscribe(T.server_filters()[0])


def test_a_port_in_use_is_one_clear_error(make: Callable[..., Broker]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        broker = make(port=port)
        with pytest.raises(BrokerError, match=rf"port {port} on 127.0.0.1 is in use; .*another"):
            broker.start()
        assert broker.pid is None
    with broker:
        assert broker.server_address().port == port


def test_starting_twice_is_an_error(broker: Broker) -> None:
    with pytest.raises(BrokerError, match=r"already started|in use"):
        broker.start()
    assert broker.alive()


def test_it_dies_with_the_process_that_started_it(make: Callable[..., Broker], tmp_path: Path) -> None:
    """Killed with -9, so that no clean-up of ours can be what ends it."""
    choice = "'embedded'" if make().kind == "embedded" else "'mosquitto', plain=True"
    script = (
        f"import sys, time; from pathlib import Path; sys.path.insert(0, {str(ROOT)!r})\n"
        "from broker_server.broker.factory import open_broker\n"
        f"broker = open_broker(directory=Path({str(tmp_path / 'b')!r}), fleet='f', option={choice})\n"
        "broker.start(); print(broker.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    poll(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "end of the broker")


def test_it_outlives_the_thread_that_started_it(make: Callable[..., Broker]) -> None:
    """The kernel's signal for a dead parent is sent when the *thread* that forked ends."""
    broker = make()
    thread = threading.Thread(target=broker.start)
    thread.start()
    thread.join()
    try:
        before = broker.pid
        with peer(broker.server_address()) as server:
            server.subscribe(T.server_filters()[0])
        assert broker.pid == before is not None
    finally:
        broker.stop()


def test_a_broker_that_cannot_start_shows_the_end_of_its_log(
    make: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make()
    taken = check_port("127.0.0.1", 0)
    module = sys.modules[type(broker).__module__]
    monkeypatch.setattr(module, "check_port", lambda _host, _port: taken)  # it seems free, and is not
    monkeypatch.setattr(module, "is_listening", lambda _host, _port: False)
    with (
        socket.create_server(("127.0.0.1", taken)),
        pytest.raises(BrokerError, match="ended at once") as error,
    ):
        broker.start()
    assert "ddress already in use" in str(error.value)
    assert broker.pid is None
