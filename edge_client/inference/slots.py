"""Two models on the disk, the active and the previous, and one pointer that says which is which.

::

    models/pointer.json     names of the folders of the active and the previous model
    models/withdrawn.json   without a pointer: the version that was taken back, with none to go back to
    models/7-1f0c92e0a3b4/  version and digest of a model: `edge_client.inference.installed`

A release is written into a folder of its own. The switch is the replacement of the pointer, one rename: a
power cut at any moment finds the old pair or the new one. Folders that the pointer does not name are swept
away at the next switch, and never before it: no disk that fills up and no failed release costs the way back.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from compression.records import Length, Matches, Record, RecordError, dumps, loads
from compression.spec import ModelSpec
from edge_client.files import sync_directory, write_atomically
from edge_client.inference.installed import (
    ActiveModel,
    SlotError,
    install_model,
    read_installed,
    read_model,
)
from edge_client.wire.blobs import sha256
from edge_client.wire.calibration import Answering
from edge_client.wire.fields import Number

log = logging.getLogger(__name__)

FOLDER = "models"  # in the state directory
POINTER, WITHDRAWN, LOCK = "pointer.json", "withdrawn.json", "lock"
RECORD_BYTES = 4096  # more than either record takes
READ_ATTEMPTS = 3  # a reader without the lock may meet a switch, but not three in a row

Slot = Annotated[str, Matches(r"[0-9]{1,16}-[0-9a-f]{12}")]  # name of a folder


@dataclass(frozen=True, slots=True)
class Pointer(Record):
    """Which model answers, and which one would after `rollback`."""

    active: Slot
    previous: Annotated[tuple[Slot, ...], Length(0, 1)] = ()


@dataclass(frozen=True, slots=True)
class Withdrawn(Record):
    """Why no model answers: this version did, and was taken back."""

    version: Number


class ModelSlots:
    """The models of one device. Writers take turns by a lock file; readers never wait."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def stage(
        self,
        version: int,
        tflite: bytes,
        spec: ModelSpec,
        *,
        manifest: bytes = b"",
        digest: str | None = None,
        answering: Answering = Answering(),  # noqa: B008 - frozen
    ) -> str:
        """Write a model beside the others; nothing answers from it before `activate`.

        Args:
            version: of the release.
            tflite: the file.
            spec: of the model.
            manifest: the signed release, kept as it is.
            digest: SHA-256 that the file must have, where the caller has not checked it.
            answering: how its output becomes an answer.

        Returns:
            The folder's name, for `activate`.

        Raises:
            SlotError: the file is another one than the digest says.
            OSError: the disk is full, for instance; the other models stand.
        """
        if digest is not None and sha256(tflite) != digest:
            raise SlotError(f"model {version} is not the file that was signed")
        with self._locked():
            return install_model(self._directory, ActiveModel(version, tflite, spec, manifest, answering))

    def activate(self, slot: str) -> None:
        """Let a staged model answer from now on; raise `SlotError` if it is not whole."""
        read_model(self._directory / slot)
        with self._locked():
            pointer = self._pointer()
            if pointer is not None and pointer.active == slot:
                return
            previous = () if pointer is None else (pointer.active,)
            self._point(Pointer(active=slot, previous=previous))
            (self._directory / WITHDRAWN).unlink(missing_ok=True)
            self._sweep()

    def rollback(self) -> ActiveModel:
        """Let the previous model answer again; raise `SlotError` if there is none or it is damaged."""
        with self._locked():
            pointer = self._pointer()
            if pointer is None or not pointer.previous:
                raise SlotError("there is no previous model to go back to")
            model = read_model(self._directory / pointer.previous[0])
            self._point(Pointer(active=pointer.previous[0], previous=(pointer.active,)))
        return model

    def withdraw(self, digest: str) -> bool:
        """Let the active model, if it is this file, answer no more: the one before it does, or none."""
        with self._locked():
            pointer = self._pointer()
            if pointer is None:
                return False
            installed = read_installed(self._directory / pointer.active)
            if installed is None or installed.model != digest:
                return False
            if pointer.previous:
                self._point(Pointer(active=pointer.previous[0]))
            else:
                write_atomically(self._directory / WITHDRAWN, dumps(Withdrawn(installed.version)))
                (self._directory / POINTER).unlink()
                sync_directory(self._directory)
            self._sweep()
        return True

    def why_none(self) -> str:
        """Why no model is active, in words."""
        with contextlib.suppress(OSError, RecordError):
            data = (self._directory / WITHDRAWN).read_bytes()
            version = loads(Withdrawn, data, max_bytes=RECORD_BYTES).version
            return f"no model is active: model {version} was taken back, and there is none before it"
        return "there is no released model yet: it comes when a run of the fleet ends"

    def active(self) -> ActiveModel | None:
        """The model that answers; None before the first release, or after it was withdrawn.

        A model that the disk has damaged does not answer: the previous one does.

        Raises:
            SlotError: neither is whole.
        """
        for attempt in range(READ_ATTEMPTS):
            pointer = self._pointer()
            if pointer is None:
                return None
            try:
                return self._first_whole((pointer.active, *pointer.previous))
            except SlotError:
                if attempt == READ_ATTEMPTS - 1 or self._pointer() == pointer:
                    raise
        return None

    def previous(self) -> ActiveModel | None:
        """The model that `rollback` goes back to; None without one or if it is damaged."""
        pointer = self._pointer()
        if pointer is None or not pointer.previous:
            return None
        with contextlib.suppress(SlotError):
            return read_model(self._directory / pointer.previous[0])
        return None

    def stamp(self) -> tuple[int, int]:
        """Changes with every switch; costs one look at the pointer's file."""
        with contextlib.suppress(OSError):
            found = (self._directory / POINTER).stat()
            return found.st_ino, found.st_mtime_ns
        return 0, 0

    def active_version(self) -> int:
        """Version of the model that answers; 0 without one."""
        with contextlib.suppress(SlotError):
            model = self.active()
            return model.version if model else 0
        return 0

    # ---- inside ----

    def _first_whole(self, slots: tuple[str, ...]) -> ActiveModel:
        reasons = []
        for slot in slots:
            try:
                model = read_model(self._directory / slot)
            except SlotError as exc:
                reasons.append(str(exc))
            else:
                if reasons:
                    log.warning("%s; model %d answers instead", reasons[0], model.version)
                return model
        raise SlotError("; ".join(reasons))

    def _pointer(self) -> Pointer | None:
        path = self._directory / POINTER
        try:
            return loads(Pointer, path.read_bytes(), max_bytes=RECORD_BYTES)
        except FileNotFoundError:
            return None
        except (OSError, RecordError) as exc:
            log.warning("%s cannot be used, as if there were no model: %s", path, exc)
            return None

    def _named(self) -> tuple[str, ...]:
        pointer = self._pointer()
        return () if pointer is None else (pointer.active, *pointer.previous)

    def _point(self, pointer: Pointer) -> None:
        write_atomically(self._directory / POINTER, dumps(pointer))

    def _sweep(self) -> None:
        """Remove every folder that the pointer does not name."""
        named = self._named()
        for entry in self._directory.iterdir():
            if entry.is_dir() and entry.name not in named:
                shutil.rmtree(entry, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._directory / LOCK).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go with the file, by a killed process too
            yield
