"""mosquitto, configured, started, watched and stopped by us; mutual TLS with the fleet's authority.

Revocation, measured on 2.0.11: SIGHUP makes it read the list again, so a revoked certificate cannot
connect any more, but a connection that is open already goes on as before. It is silenced by a line in
the ACL file, which SIGHUP applies to open connections too, and then thrown out: a client that connects
under the same name takes the old one's place, and the authority can make itself such a client.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from broker_server.broker.access import DROPPED_TOPIC, AccessRules
from broker_server.broker.base import Broker, BrokerError
from broker_server.broker.child import Account, ChildProcess
from broker_server.broker.mosquitto_files import MosquittoFiles, choose_account, configuration
from broker_server.broker.sockets import check_port, is_listening
from edge_client.session.address import BrokerAddress
from edge_client.wire.topics import AGGREGATOR, Topics
from provisioning.pki.authority import FleetCA
from provisioning.pki.errors import PkiError
from provisioning.pki.files import PRIVATE, PUBLIC, write_file
from provisioning.pki.identity import ensure_identity

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # not on every user's PATH
OLDEST_VERSION = (2, 0)


def find_mosquitto() -> str | None:
    """Path of the mosquitto binary, None where it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(SYSTEM_FOLDERS))


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
    ) -> None:
        self._binary = _required_binary()
        self._version = _version(self._binary)
        if pki is None and not plain:
            raise BrokerError(
                "mosquitto needs the fleet's authority (bramble-provision ca init), or plain=True"
            )
        if pki is not None and plain:
            raise BrokerError("plain mosquitto uses no certificates: give either the authority or plain=True")
        if plain and host != LOOPBACK:
            raise BrokerError(f"plain mosquitto stays on {LOOPBACK}, not {host}: anyone could join the fleet")
        self._files = MosquittoFiles(directory.resolve())
        self._rules, self._pki = AccessRules(topics), pki
        self._host, self._names, self._wanted_port, self._port = host, tuple(names), port or 0, 0
        self._account: Account | None = None
        self._applied_crl: bytes | None = None
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
            self._prepare()
        except (OSError, PkiError) as exc:
            raise BrokerError(f"mosquitto cannot be prepared: {exc}") from exc
        child = ChildProcess(
            "mosquitto",
            lambda: [self._binary, "-c", str(self._files.config)],
            ready=lambda: is_listening(self._reachable_host(), self._port),
            log_file=self._files.log,
            account=self._account,
            tick=self._watch_revocations,
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
        user = self._account.name if self._account else "this user"
        trust = "mutual TLS" if self._pki else "this machine only, no encryption, no passwords"
        return f"mosquitto {self._version} on {self._host}:{self._port}, MQTT 5, {trust}, running as {user}"

    def server_address(self) -> BrokerAddress:
        return self.device_address(AGGREGATOR)

    def device_address(self, name: str) -> BrokerAddress:
        """With certificates, this makes the client's identity in the broker's directory, if need be."""
        host = self._reachable_host()
        if self._pki is None:
            return BrokerAddress(host=host, port=self._port, protocol="5", username=name)
        try:
            identity = ensure_identity(self._pki, self._files.client(name), name)
        except PkiError as exc:
            raise BrokerError(str(exc)) from exc
        return BrokerAddress(
            host=host,
            port=self._port,
            protocol="5",
            ca_file=str(identity.ca_file),
            certificate_file=str(identity.certificate_file),
            key_file=str(identity.key_file),
        )

    def apply_revocations(self) -> None:
        """Take over the authority's list: new connections and open ones alike."""
        if self._pki is None or self._child is None:
            return
        try:
            self._write_access(self._pki)
        except (OSError, PkiError) as exc:
            raise BrokerError(f"the revocation list cannot be applied: {exc}") from exc
        self._child.signal(signal.SIGHUP)

    def _watch_revocations(self) -> None:
        """A command may revoke beside the running server, so the list is looked at all the time."""
        if self._pki is None or self._child is None:
            return
        try:
            if self._pki.crl_file.read_bytes() != self._applied_crl:
                self.apply_revocations()
        except (OSError, BrokerError) as exc:
            log.error("mosquitto: %s", exc)

    def _prepare(self) -> None:
        files = self._files
        files.directory.mkdir(parents=True, exist_ok=True)
        self._account = choose_account(files.directory)
        if self._account is not None:
            files.directory.chmod(0o755)
        files.data.mkdir(exist_ok=True, mode=0o700)
        self._give(files.data)
        self._put(files.config, configuration(files, self._host, self._port, tls=self._pki is not None))
        if self._pki is None:
            self._put(files.acl, self._rules.mosquitto_acl())
            return
        certificate = self._pki.issue_server(files.key, self._certificate_names())
        self._give(files.key)
        self._put(files.certificate, certificate.decode(), PUBLIC)
        self._put(files.ca_certificate, self._pki.certificate_file.read_text("ascii"), PUBLIC)
        self._write_access(self._pki)

    def _write_access(self, pki: FleetCA) -> None:
        crl = pki.crl_file.read_bytes()
        self._put(self._files.crl, crl.decode("ascii"), PUBLIC)
        self._put(self._files.acl, self._rules.mosquitto_acl(pki.ledger().revoked_names()))
        self._applied_crl = crl

    def _put(self, path: Path, text: str, mode: int = PRIVATE) -> None:
        account = self._account
        write_file(path, text.encode(), mode=mode, owner=(account.uid, account.gid) if account else None)

    def _give(self, path: Path) -> None:
        """Hand a file or a folder with what it holds to the broker's user."""
        if os.geteuid() == 0:
            uid, gid = (self._account.uid, self._account.gid) if self._account else (0, 0)
            for each in (path, *path.rglob("*")):
                os.chown(each, uid, gid)

    def _certificate_names(self) -> list[str]:
        listening = [] if self._host in ALL_INTERFACES else [self._host]
        return [*self._names, *listening, "localhost", LOOPBACK]

    def _reachable_host(self) -> str:
        return LOOPBACK if self._host in ALL_INTERFACES else self._host


def _required_binary() -> str:
    binary = find_mosquitto()
    if binary is None:
        raise BrokerError("mosquitto is not installed: apt install mosquitto, or use the embedded broker")
    return binary


def _version(binary: str) -> str:
    result = subprocess.run([binary, "-h"], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"mosquitto version (\d+)\.(\d+)[\w.]*", result.stdout + result.stderr)
    if found is None:
        raise BrokerError(f"{binary} does not say its version; is it mosquitto?")
    if (int(found[1]), int(found[2])) < OLDEST_VERSION:
        raise BrokerError(f"{found[0]} is too old: 2.0 or newer is needed, or use the embedded broker")
    return found[0].removeprefix("mosquitto version ")
