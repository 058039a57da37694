"""The authority's revocations, made to hold at a running mosquitto at once.

Measured on 2.0.11: SIGHUP makes it read the revocation list again, so a revoked certificate cannot
connect any more, but a connection that is open already goes on as before. It is silenced by a line in
the ACL file, which SIGHUP applies to open connections too, and then thrown out (see `eviction`). The
other devices notice nothing, where a restart would cut them all off.
"""

from __future__ import annotations

import threading
import time

from broker_server.broker.access import AccessRules
from broker_server.broker.base import BrokerError
from broker_server.broker.child import ChildProcess
from broker_server.broker.eviction import evict
from broker_server.broker.mosquitto_files import MosquittoFiles
from edge_client.session.address import BrokerAddress
from provisioning.pki.authority import FleetCA
from provisioning.pki.files import PRIVATE, PUBLIC

RELOAD_LINE, RELOAD_DEADLINE_S, POLL_S = b"Reloading config", 10.0, 0.01


class Revocations:
    """Keeps mosquitto's copy of the list and of the access rules in step with the authority."""

    def __init__(self, authority: FleetCA, files: MosquittoFiles, rules: AccessRules) -> None:
        self._authority, self._files, self._rules = authority, files, rules
        self._applied: tuple[bytes, tuple[str, ...]] = (b"", ())  # the list, the names on it
        self._looked_at: tuple[int, ...] = ()
        self._one_at_a_time = threading.Lock()  # the watching thread and a caller

    def write(self) -> None:
        """Write both files; enough before a start."""
        crl, revoked = self._authority.revocations()
        self._files.put(self._files.crl, crl, PUBLIC)
        self._files.put(self._files.acl, self._rules.mosquitto_acl(revoked).encode(), PRIVATE)
        self._applied = (crl, revoked)

    def changed(self) -> bool:
        """Whether the authority says something else than what was written; two `stat` calls if not."""
        times = tuple(
            path.stat().st_mtime_ns for path in (self._authority.crl_file, self._authority.ledger_file)
        )
        if times == self._looked_at:
            return False
        self._looked_at = times
        return self._authority.revocations() != self._applied

    def apply(self, child: ChildProcess, address: BrokerAddress) -> None:
        """Make mosquitto read both files, and put off whoever is newly revoked."""
        with self._one_at_a_time:
            before = self._applied[1]
            self.write()
            self._reload(child)
            failures = []
            for name in sorted(set(self._applied[1]) - set(before)):
                try:
                    evict(self._authority, address, name, self._files.directory)
                except BrokerError as exc:  # silenced all the same; the others' turn
                    failures.append(f"{name} is silenced but not put off: {exc}")
        if failures:
            raise BrokerError("; ".join(failures))

    def _reload(self, child: ChildProcess) -> None:
        """SIGHUP; return when mosquitto says that it reads its files, which it does before all else."""
        start = self._files.log.stat().st_size
        child.signal_reload()
        deadline = time.monotonic() + RELOAD_DEADLINE_S
        while RELOAD_LINE not in self._files.log.read_bytes()[start:]:
            if time.monotonic() > deadline or child.pid is None:
                raise BrokerError(f"mosquitto did not read its files again; see {self._files.log}")
            time.sleep(POLL_S)
