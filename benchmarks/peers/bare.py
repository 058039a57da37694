"""The floor: the exchange over MQTT with nothing around it. float32 both ways, a sum, no checks, no disk.

``python -m benchmarks.peers.bare server HOST PORT CLIENTS ROUNDS MARKS`` or ``... client HOST PORT NAME``.
The topics are the fleet's, since the broker's access list knows no others.
"""

from __future__ import annotations

import math
import queue
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from benchmarks.peers.plan import SHAPES
from benchmarks.peers.rig import write_mark
from edge_client.session.mqtt import send_at_once
from edge_client.wire.topics import AGGREGATOR, MESSAGE, STATUS, TASK, Topics

PARAMETERS = sum(math.prod(shape) for shape in SHAPES)
FLEET = "bench"
TOPICS = Topics(FLEET)
GLOBAL = TOPICS.all(TASK)
KEEPALIVE_S = 60
Inbox = queue.Queue[tuple[str, bytes]]


def connect(name: str, host: str, port: int, topics: Sequence[str]) -> tuple[Client, Inbox]:
    """A connected client, and what comes in on its topics."""
    inbox: Inbox = queue.Queue()
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv311)
    client.on_message = lambda _client, _data, message: inbox.put((message.topic, bytes(message.payload)))
    subscribed: queue.Queue[None] = queue.Queue()
    client.on_subscribe = lambda *_: subscribed.put(None)
    client.username_pw_set(name)
    client.on_socket_open = send_at_once
    client.connect(host, port, keepalive=KEEPALIVE_S)
    client.loop_start()
    client.subscribe([(topic, 1) for topic in topics])
    subscribed.get(timeout=KEEPALIVE_S)
    return client, inbox


def serve(host: str, port: int, clients: int, rounds: int, marks: Path) -> None:
    """Send the weights, add up the answers, say that the round is over, begin the next."""
    client, inbox = connect(AGGREGATOR, host, port, TOPICS.server_filters())
    here: set[str] = set()
    while len(here) < clients:
        here.add(inbox.get()[0])
    weights = np.zeros(PARAMETERS, np.float32)
    for number in range(1, rounds + 1):
        client.publish(GLOBAL, weights.tobytes(), qos=1)
        total, count = np.zeros(PARAMETERS, np.float64), 0
        while count < clients:
            total += np.frombuffer(inbox.get()[1], np.float32)
            count += 1
        weights = (weights + total / clients).astype(np.float32)
        write_mark(marks, number, count)
    client.publish(GLOBAL, b"", qos=1).wait_for_publish()
    client.disconnect()


def take_part(host: str, port: int, name: str) -> None:
    """Answer weights with a made-up update until an empty message comes."""
    client, inbox = connect(name, host, port, [GLOBAL])
    client.publish(TOPICS.up(name, STATUS), b"here", qos=1, retain=True)  # the server may come later
    update = (1e-3 * np.random.default_rng().standard_t(3, PARAMETERS)).astype(np.float32)
    while inbox.get()[1]:
        client.publish(TOPICS.up(name, MESSAGE), update.tobytes(), qos=1)
    client.disconnect()


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), Path(sys.argv[6]))
    else:
        take_part(sys.argv[2], int(sys.argv[3]), sys.argv[4])
