"""Upgrades: another client for one device, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from edge_client.wire.blobs import BlobRef
from edge_client.wire.fields import Message, Number, Text, Word
from edge_client.wire.topics import FleetName


@dataclass(frozen=True, slots=True)
class Upgrade(Message):
    """Another client for one device. ``number`` only ever grows, so a replayed one is recognised.

    A client older than the running one is installed only where ``rollback`` says that it is meant.
    """

    SIGNED: ClassVar[bool] = True
    fleet: FleetName
    number: Number
    build: Number
    version: Word
    target: Word  # the system that the client is made for
    archive: BlobRef
    rollback: bool = False


@dataclass(frozen=True, slots=True)
class UpgradeReport(Message):
    """What became of an upgrade: it waits to be installed, runs, was refused, or did not come online."""

    number: Number
    build: Number
    outcome: Literal["staged", "running", "refused", "rolled-back"]
    reason: Text = ""
