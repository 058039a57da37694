"""mosquitto's configuration, generated: its defaults lose data silently (docs/adr/0003).

Take a line away and a test in ``tests/broker_server/test_broker_mosquitto.py`` fails; the exceptions are the
session expiry of a week, what is for speed alone, and what only spells out a default.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from broker_server.broker.base import MAX_PACKET_BYTES, BrokerError
from broker_server.broker.child import Account
from provisioning.pki.files import write_file

MAX_QUEUED_MESSAGES = 100_000  # the default of 1000 drops acknowledged messages; 0 dropped all on 2.0.16
AUTOSAVE_S = 5  # default 1800: kill -9 lost everything. Saving on each change wrote 150 times the data
SYS_INTERVAL_S = 10
SESSION_EXPIRY = "7d"


class MosquittoFiles:
    """Where everything of one supervised mosquitto lies, and whose it is."""

    def __init__(self, directory: Path) -> None:
        if not str(directory).isprintable():  # a line break in it would add lines to the configuration
            raise BrokerError(f"mosquitto cannot read a path such as {str(directory)!r}")
        self.directory = directory
        self.account: Account | None = None

    def prepare(self) -> None:
        """Make the folders, and choose whom mosquitto runs as."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.account = choose_account(self.directory)
        if self.account is not None:
            self.directory.chmod(0o755)
        self.data.mkdir(exist_ok=True, mode=0o700)
        for path in (self.data, *self.data.rglob("*")):
            self.give(path)

    def put(self, path: Path, data: bytes, mode: int) -> None:
        """Write a file that mosquitto reads."""
        write_file(
            path, data, mode=mode, owner=(self.account.uid, self.account.gid) if self.account else None
        )

    def give(self, path: Path) -> None:
        """Hand a file to mosquitto's user, or back to root where it now runs as root."""
        if os.geteuid() == 0:
            uid, gid = (self.account.uid, self.account.gid) if self.account else (0, 0)
            os.chown(path, uid, gid, follow_symlinks=False)  # its own folder may hold a link to ours

    @property
    def config(self) -> Path:
        return self.directory / "mosquitto.conf"

    @property
    def acl(self) -> Path:
        return self.directory / "acl"

    @property
    def data(self) -> Path:
        """Sessions, queues and retained messages."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "broker.log"

    @property
    def ca_certificate(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def crl(self) -> Path:
        return self.directory / "ca.crl"

    @property
    def certificate(self) -> Path:
        return self.directory / "server.crt"

    @property
    def key(self) -> Path:
        return self.directory / "server.key"

    def client(self, name: str) -> Path:
        """Identity of a client on this machine."""
        return self.directory / "clients" / name


def configuration(files: MosquittoFiles, host: str, port: int, *, tls: bool) -> str:
    """The text of mosquitto.conf."""
    lines = [
        "# Written by bramble at every start; changes here are lost.",
        "user root",  # of use only to root: without it mosquitto changes its user by itself, see `account`
        "per_listener_settings false",
        f"listener {port} {host}",
        *(_tls_lines(files) if tls else ["allow_anonymous true"]),
        "use_username_as_clientid true",  # or any device takes over the aggregator's session
        f"acl_file {files.acl}",
        f"max_packet_size {MAX_PACKET_BYTES}",  # never message_size_limit: that acknowledges, then discards
        f"max_queued_messages {MAX_QUEUED_MESSAGES}",
        "max_queued_bytes 0",
        "max_inflight_messages 20",
        "set_tcp_nodelay true",  # small packets waited 40 ms for each other: `edge_client.session.mqtt`
        "persistence true",
        f"persistence_location {files.data}/",
        f"autosave_interval {AUTOSAVE_S}",
        "autosave_on_changes false",
        f"persistent_client_expiration {SESSION_EXPIRY}",
        f"sys_interval {SYS_INTERVAL_S}",
        "log_dest stderr",  # unbuffered, unlike stdout: revocation waits for a line of it
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",  # says when it reads its files again, which revocation waits for
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
    ]
    return "\n".join(lines) + "\n"


def _tls_lines(files: MosquittoFiles) -> list[str]:
    return [
        f"cafile {files.ca_certificate}",
        f"certfile {files.certificate}",
        f"keyfile {files.key}",
        f"crlfile {files.crl}",
        "tls_version tlsv1.2",  # the oldest that is accepted
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
    ]


def choose_account(directory: Path) -> Account | None:
    """Whom mosquitto runs as when we are root: its own user where that user can reach `directory`.

    None means: as whoever we are. Below a private directory (root's home, a test's folder) the broker
    stays root, because its own user could not open its files.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("mosquitto")
    except KeyError:
        return None
    if not all(_may_pass(parent, entry.pw_uid, entry.pw_gid) for parent in directory.resolve().parents):
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _may_pass(directory: Path, uid: int, gid: int) -> bool:
    facts = directory.stat()
    if facts.st_uid == uid:
        return bool(facts.st_mode & stat.S_IXUSR)
    if facts.st_gid == gid:
        return bool(facts.st_mode & stat.S_IXGRP)
    return bool(facts.st_mode & stat.S_IXOTH)
