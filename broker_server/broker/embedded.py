"""The broker that pip brings: amqtt in a child process, MQTT 3.1.1; on loopback unless told otherwise."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import broker_server
from broker_server.broker.base import MAX_PACKET_BYTES, Broker, BrokerError
from broker_server.broker.child import ChildProcess
from broker_server.broker.sockets import check_port, is_listening, reached_from
from edge_client.session.address import BrokerAddress
from edge_client.wire.topics import AGGREGATOR, Topics
from provisioning.pki.files import write_file
from provisioning.pki.identity import LOOPBACK

SESSION_EXPIRY_S = 86_400
CHECKOUT = str(Path(broker_server.__file__).resolve().parent.parent)  # which need not be installed


class EmbeddedBroker(Broker):
    """amqtt as a child process."""

    kind = "embedded"

    def __init__(
        self, directory: Path, topics: Topics, *, port: int | None = None, host: str = LOOPBACK
    ) -> None:
        if find_spec("amqtt") is None:
            raise BrokerError("the embedded broker is not installed: pip install 'bramble[server]'")
        self._directory, self._topics, self._wanted_port = directory, topics, port or 0
        self._host, self._port = host, 0
        self._child = ChildProcess(
            "the embedded broker",
            self._command,
            ready=lambda: is_listening(self._host, self._port),
            log_file=directory / "broker.log",
            environment={
                "PYTHONPATH": os.pathsep.join(filter(None, (CHECKOUT, os.environ.get("PYTHONPATH"))))
            },
        )

    @property
    def pid(self) -> int | None:
        """Process id of the broker, None while it is down."""
        return self._child.pid

    def start(self) -> None:
        self._port = check_port(self._host, self._port or self._wanted_port)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._child.start()

    def stop(self) -> None:
        self._child.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def alive(self) -> bool:
        return self._child.pid is not None and is_listening(self._host, self._port)

    def describe(self) -> str:
        return (
            f"embedded (amqtt, MQTT 3.1.1) on {self._host}:{self._port}, {reached_from(self._host)}, "
            "no encryption, no passwords, nothing kept over a restart"
        )

    def server_address(self) -> BrokerAddress:
        return self.device_address(AGGREGATOR)

    def device_address(self, name: str) -> BrokerAddress:
        return BrokerAddress(host=self._host, port=self._port, protocol="3.1.1", username=name)

    def _command(self) -> Sequence[str]:
        settings = {
            "host": self._host,
            "port": self._port,
            "fleet": self._topics.fleet,
            "max_packet_bytes": MAX_PACKET_BYTES,
            "session_expiry_s": SESSION_EXPIRY_S,
        }
        config = self._directory / "embedded.json"
        write_file(config, json.dumps(settings, indent=1).encode())
        return [sys.executable, "-m", "broker_server.broker.amqtt_child", str(config)]
