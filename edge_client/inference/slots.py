"""Two slots for models and one pointer: a switch is a single rename, so a power cut finds old or new.

::

    models/a/, models/b/    model.tflite, spec.json, installed.json (digest and version of the model)
    models/active           "a" or "b"; replaced atomically
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compression.records import Record, RecordError, dumps, loads
from compression.spec import MAX_SPEC_BYTES, ModelSpec
from edge_client.files import write_atomically
from edge_client.wire.blobs import Digest, sha256
from edge_client.wire.messages import Number

Slot = Literal["a", "b"]
SLOTS: tuple[Slot, Slot] = ("a", "b")


class SlotError(RuntimeError):
    """There is no model in the slot, or it is damaged."""


@dataclass(frozen=True, slots=True)
class Installed(Record):
    """What a slot holds."""

    version: Number
    digest: Digest  # SHA-256 of model.tflite


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """A model that may answer."""

    version: int
    tflite: bytes
    spec: ModelSpec


class ModelSlots:
    """The models of one device."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def stage(self, version: int, tflite: bytes, spec: ModelSpec) -> Slot:
        """Write a model into the slot that is not active; nothing answers from it before `activate`."""
        slot: Slot = "b" if self._active_slot() == "a" else "a"
        folder = self._directory / slot
        shutil.rmtree(folder, ignore_errors=True)
        write_atomically(folder / "model.tflite", tflite)
        write_atomically(folder / "spec.json", dumps(spec))
        write_atomically(folder / "installed.json", dumps(Installed(version=version, digest=sha256(tflite))))
        return slot

    def activate(self, slot: Slot) -> None:
        """Let the model of a slot answer from now on; raise `SlotError` if it is not whole."""
        self._read(slot)
        write_atomically(self._directory / "active", slot.encode())

    def rollback(self) -> ActiveModel:
        """Go back to the model before; raise `SlotError` if there is none."""
        slot: Slot = "b" if self._active_slot() == "a" else "a"
        model = self._read(slot)
        self.activate(slot)
        return model

    def active(self) -> ActiveModel | None:
        """The model that answers; None before the first release."""
        slot = self._active_slot()
        return self._read(slot) if slot else None

    def active_version(self) -> int:
        """Version of the model that answers; 0 without one, or if its slot is damaged."""
        slot = self._active_slot()
        if slot is None:
            return 0
        with contextlib.suppress(OSError, RecordError):
            return self._installed(slot).version
        return 0

    def _active_slot(self) -> Slot | None:
        with contextlib.suppress(OSError):
            text = (self._directory / "active").read_text()
            return next((slot for slot in SLOTS if slot == text), None)
        return None

    def _installed(self, slot: Slot) -> Installed:
        return loads(Installed, (self._directory / slot / "installed.json").read_bytes(), max_bytes=4096)

    def _read(self, slot: Slot) -> ActiveModel:
        folder = self._directory / slot
        try:
            installed = self._installed(slot)
            tflite = (folder / "model.tflite").read_bytes()
            spec = loads(ModelSpec, (folder / "spec.json").read_bytes(), max_bytes=MAX_SPEC_BYTES)
        except (OSError, RecordError) as exc:
            raise SlotError(f"slot {slot} holds no whole model: {exc}") from exc
        if sha256(tflite) != installed.digest:
            raise SlotError(f"the model in slot {slot} is not the one that was installed")
        return ActiveModel(installed.version, tflite, spec)
