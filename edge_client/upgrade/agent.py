"""The agent's half of an upgrade: fetch a signed client, leave it for root, and say what became of it.

::

    upgrade/client.upgrade   frame and archive (`edge_client.upgrade.package`)
    upgrade/staged.json      written last: a systemd path unit waits for it
    upgrade/memory.json      the newest upgrade, and the last word on it
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compression.records import Record, RecordError, dumps, loads
from edge_client.device import slots
from edge_client.files import write_atomically
from edge_client.session.blobs import BlobStore
from edge_client.upgrade import OUTCOME, STAGED
from edge_client.upgrade.install import MARK, refusal
from edge_client.upgrade.package import write_package
from edge_client.wire.blobs import BlobRef
from edge_client.wire.fields import Number
from edge_client.wire.upgrade import Upgrade, UpgradeReport

log = logging.getLogger(__name__)

FOLDER, PACKAGE, MEMORY = "upgrade", "client.upgrade", "memory.json"
PREFIX_VARIABLE = "BRAMBLE_PREFIX"  # set by the launcher; without it nobody could start another client
MAX_MEMORY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Memory(Record):
    """The newest upgrade that was asked for, and the last word on it."""

    number: Number = 0
    build: Number = 0
    report: UpgradeReport | None = None


class Upgrader:
    """One device's upgrades. The caller fetches what `wanted` names and sends what the methods return."""

    def __init__(self, state: Path, blobs: BlobStore, prefix: str | None = None) -> None:
        self._state = state
        self._folder = state / FOLDER
        self._blobs = blobs
        given = os.environ.get(PREFIX_VARIABLE) if prefix is None else prefix
        self._prefix = Path(given) if given else None
        self._memory = self._read_memory()
        self._asked: tuple[Upgrade, bytes] | None = None

    def on_upgrade(self, upgrade: Upgrade, frame: bytes) -> UpgradeReport | None:
        """Take on an upgrade, or say at once why not; a known one gets its report again."""
        if upgrade.number == self._memory.number and self._memory.report is not None:
            self._ask_root_again()
            return self._memory.report
        if upgrade.number <= self._memory.number and self._asked is None:
            return None
        if reason := self._objection(upgrade):
            return self._conclude(upgrade.number, upgrade.build, "refused", reason)
        self._asked = upgrade, frame
        return None

    @property
    def wanted(self) -> BlobRef | None:
        """The archive that must be here before `stage`."""
        return self._asked[0].archive if self._asked else None

    def stage(self) -> UpgradeReport:
        """Leave the client for root: the archive is here."""
        if self._asked is None:
            raise LookupError("no upgrade was asked for")
        (upgrade, frame), self._asked = self._asked, None
        write_package(self._folder / PACKAGE, frame, self._blobs.path(upgrade.archive.digest))
        report = UpgradeReport(number=upgrade.number, build=upgrade.build, outcome="staged")
        self._remember(Memory(upgrade.number, upgrade.build, report))
        self._blobs.path(upgrade.archive.digest).unlink(missing_ok=True)
        self._ask_root()
        return report

    def news(self) -> UpgradeReport | None:
        """What has become of a staged upgrade since; None where nothing has, or nothing was staged."""
        memory = self._memory
        if memory.report is None or memory.report.outcome != "staged" or self._prefix is None:
            return None
        if int(self._running().get("build", 0)) == memory.build:
            return self._conclude(memory.number, memory.build, "running")
        outcome = slots.read_json(self._prefix / OUTCOME)
        if outcome.get("number") == memory.number:
            return self._conclude(memory.number, memory.build, "refused", str(outcome.get("reason", "")))
        trial = slots.read_json(self._state / slots.TRIAL)
        if trial.get("build") == memory.build and trial.get("state") == "failed":
            return self._conclude(memory.number, memory.build, "rolled-back", str(trial.get("reason", "")))
        return None

    # ---- inside ----

    def _ask_root(self) -> None:
        write_atomically(self._folder / STAGED, json.dumps({"number": self._memory.number}).encode())

    def _ask_root_again(self) -> None:
        """Mend what a power cut between memory and request left; root has not seen this number then."""
        report, number = self._memory.report, self._memory.number
        if report is None or report.outcome != "staged" or self._prefix is None:
            return
        seen = (slots.read_json(self._prefix / name).get("number") for name in (MARK, OUTCOME))
        if number not in seen and (self._folder / PACKAGE).exists() and not (self._folder / STAGED).exists():
            log.info("upgrade %d waits for root still", number)
            self._ask_root()

    def _objection(self, upgrade: Upgrade) -> str:
        if self._prefix is None:
            return "this client was not started by the launcher: install it once from a card or over SSH"
        return refusal(upgrade, self._running(), self._memory.number)

    def _running(self) -> dict[str, Any]:
        if self._prefix is None:
            return {}
        with contextlib.suppress(slots.SlotError):
            return slots.client_of(self._prefix, slots.chosen(self._prefix, self._state))
        return {}

    def _conclude(self, number: int, build: int, outcome: str, reason: str = "") -> UpgradeReport:
        report = UpgradeReport(number=number, build=build, outcome=outcome, reason=reason[:500])  # type: ignore[arg-type]
        self._remember(replace(self._memory, number=number, build=build, report=report))
        return report

    def _remember(self, memory: Memory) -> None:
        write_atomically(self._folder / MEMORY, dumps(memory))
        self._memory = memory

    def _read_memory(self) -> Memory:
        with contextlib.suppress(OSError, RecordError):
            return loads(Memory, (self._folder / MEMORY).read_bytes(), max_bytes=MAX_MEMORY_BYTES)
        return Memory()
