"""mosquitto, configured, started, watched and stopped by us; mutual TLS with the fleet's authority."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from broker_server.broker.access import DROPPED_TOPIC, AccessRules
from broker_server.broker.base import Broker, BrokerError
from broker_server.broker.child import ChildProcess
from broker_server.broker.installed import require_mosquitto
from broker_server.broker.mosquitto_files import MosquittoFiles, configuration
from broker_server.broker.revocation import Revocations
from broker_server.broker.sockets import check_port, is_listening, reached_from
from edge_client.session.address import BrokerAddress
from edge_client.wire.topics import AGGREGATOR, Topics
from provisioning.pki.authority import FleetCA
from provisioning.pki.errors import PkiError
from provisioning.pki.files import PRIVATE, PUBLIC
from provisioning.pki.identity import (
    ALL_INTERFACES,
    LOOPBACK,
    ensure_identity,
    ensure_server_certificate,
    listening_names,
)

log = logging.getLogger(__name__)


class MosquittoBroker(Broker):
    """A supervised mosquitto."""

    kind = "mosquitto"
    dropped_topic = DROPPED_TOPIC

    def __init__(
        self,
        directory: Path,
        topics: Topics,
        *,
        port: int | None = None,
        host: str = LOOPBACK,
        names: Sequence[str] = (),
        pki: FleetCA | None = None,
        plain: bool = False,
        closed: bool = False,
    ) -> None:
        if plain == (pki is not None):
            raise BrokerError(
                "mosquitto needs the fleet's authority (bramble-provision ca init), or plain=True"
            )
        if plain and host != LOOPBACK and not closed:
            raise BrokerError(f"plain mosquitto stays on {LOOPBACK}, not {host}: anyone could join the fleet")
        self._program = require_mosquitto()
        self._files = MosquittoFiles(directory.resolve())
        self._rules, self._pki = AccessRules(topics), pki
        self._revocations = Revocations(pki, self._files, self._rules) if pki else None
        self._host, self._names, self._wanted_port, self._port = host, tuple(names), port or 0, 0
        self._child: ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the broker, None while it is down."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        if self._child is not None:
            raise BrokerError("mosquitto is already started")
        self._port = check_port(self._host, self._port or self._wanted_port)
        try:
            self._write_files()
        except (OSError, PkiError) as exc:
            raise BrokerError(f"mosquitto cannot be prepared: {exc}") from exc
        child = ChildProcess(
            "mosquitto",
            lambda: [self._program.path, "-c", str(self._files.config)],
            ready=lambda: is_listening(self._reachable_host(), self._port),
            log_file=self._files.log,
            account=self._files.account,
            tick=self._follow_authority,
        )
        child.start()
        self._child = child

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def alive(self) -> bool:
        return self.pid is not None and is_listening(self._reachable_host(), self._port)

    def describe(self) -> str:
        trust = "mutual TLS" if self._pki else f"{reached_from(self._host)}, no encryption, no passwords"
        user = self._files.account.name if self._files.account else "the same user as the server"
        return (
            f"mosquitto {self._program.version} on {self._host}:{self._port}, MQTT 5, {trust}, runs as {user}"
        )

    def server_address(self) -> BrokerAddress:
        return self.device_address(AGGREGATOR)

    def device_address(self, name: str) -> BrokerAddress:
        """With certificates, this makes the client's identity in the broker's directory, if need be."""
        if self._pki is None:
            return BrokerAddress(host=self._reachable_host(), port=self._port, protocol="5", username=name)
        try:
            identity = ensure_identity(self._pki, self._files.client(name), name)
        except PkiError as exc:
            raise BrokerError(str(exc)) from exc
        return BrokerAddress(
            host=self._reachable_host(),
            port=self._port,
            protocol="5",
            ca_file=str(identity.ca_file),
            certificate_file=str(identity.certificate_file),
            key_file=str(identity.key_file),
        )

    def apply_revocations(self) -> None:
        """Done by itself within a fraction of a second of a change; this returns when it is done."""
        if self._revocations is None or self._child is None:
            return
        address = BrokerAddress(
            host=self._reachable_host(),
            port=self._port,
            protocol="5",
            ca_file=str(self._files.ca_certificate),
        )
        try:
            self._revocations.apply(self._child, address)
        except (OSError, PkiError) as exc:
            raise BrokerError(f"the revocation list cannot be applied: {exc}") from exc

    def _follow_authority(self) -> None:
        """A command may revoke beside the running server, so the authority's files are watched."""
        try:
            if self._child is not None and self._revocations is not None and self._revocations.changed():
                self.apply_revocations()
        except (OSError, PkiError, BrokerError) as exc:
            log.error("mosquitto: %s", exc)

    def _write_files(self) -> None:
        files = self._files
        files.prepare()
        text = configuration(files, self._host, self._port, tls=self._pki is not None)
        files.put(files.config, text.encode(), PRIVATE)
        if self._pki is None or self._revocations is None:
            files.put(files.acl, self._rules.mosquitto_acl().encode(), PRIVATE)
            return
        names = listening_names(self._host, self._names)
        ensure_server_certificate(self._pki, files.key, files.certificate, names)
        files.give(files.key)
        files.put(files.ca_certificate, self._pki.certificate_file.read_bytes(), PUBLIC)
        self._revocations.write()

    def _reachable_host(self) -> str:
        return LOOPBACK if self._host in ALL_INTERFACES else self._host
