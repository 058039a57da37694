"""One model on the disk: a folder that is whole, or does not count.

::

    7-1f0c92e0a3b4/   version and digest of: model.tflite, spec.json, manifest, answering.json, installed.json

Written file by file, each synced; ``installed.json`` comes last and holds the SHA-256 of the others, so a
folder that has it and agrees with it is whole.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compression.errors import BrambleError
from compression.records import Record, RecordError, dumps, loads
from compression.spec import MAX_SPEC_BYTES, ModelSpec
from edge_client.files import sync_directory, write_atomically
from edge_client.wire.blobs import Digest, sha256
from edge_client.wire.calibration import Answering
from edge_client.wire.fields import Number

MODEL, SPEC, MANIFEST, INSTALLED = "model.tflite", "spec.json", "manifest", "installed.json"
ANSWERING = "answering.json"
RECORD_BYTES = 4096  # more than the record takes
ANSWERING_BYTES = 1 << 16


class SlotError(BrambleError, RuntimeError):
    """There is no such model, or it is damaged."""


@dataclass(frozen=True, slots=True)
class Installed(Record):
    """What a folder holds, as SHA-256 of each file."""

    version: Number
    model: Digest
    spec: Digest
    manifest: Digest
    answering: Digest


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """A model that may answer.

    `manifest` is the signed release it came with, as it was received; `answering` what the release says
    of its answers, with the limit that suits this device's examples.
    """

    version: int
    tflite: bytes
    spec: ModelSpec
    manifest: bytes = b""
    answering: Answering = Answering()


def install_model(directory: Path, model: ActiveModel) -> str:
    """The folder's name, after a model was written into it unless it is there already.

    Raises:
        OSError: the disk is full, for instance; nothing is left of it.
    """
    files = {
        MODEL: model.tflite,
        SPEC: dumps(model.spec),
        MANIFEST: model.manifest,
        ANSWERING: dumps(model.answering),
    }
    record = dumps(_installed(model.version, files))
    name = f"{model.version}-{sha256(record)[:12]}"
    try:
        read_model(directory / name)  # a release that is offered again; it may be the active one
    except SlotError:
        _write(directory / name, files | {INSTALLED: record})
    return name


def read_model(folder: Path) -> ActiveModel:
    """A whole model; raise `SlotError` where there is none."""
    try:
        installed = loads(Installed, (folder / INSTALLED).read_bytes(), max_bytes=RECORD_BYTES)
        files = {name: (folder / name).read_bytes() for name in (MODEL, SPEC, MANIFEST, ANSWERING)}
        if _installed(installed.version, files) != installed:
            raise SlotError(f"the model in {folder} is not the one that was installed")
        spec = loads(ModelSpec, files[SPEC], max_bytes=MAX_SPEC_BYTES)
        answering = loads(Answering, files[ANSWERING], max_bytes=ANSWERING_BYTES)
    except (OSError, RecordError) as exc:
        raise SlotError(f"{folder} holds no whole model: {exc}") from exc
    return ActiveModel(installed.version, files[MODEL], spec, files[MANIFEST], answering)


def read_installed(folder: Path) -> Installed | None:
    """What a folder should hold, without a look at the files; None if that cannot be read."""
    with contextlib.suppress(OSError, RecordError):
        return loads(Installed, (folder / INSTALLED).read_bytes(), max_bytes=RECORD_BYTES)
    return None


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        for name, data in files.items():  # in this order: the last one makes the others count
            write_atomically(folder / name, data)
        sync_directory(folder.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # gives the space back to those that answer
        raise


def _installed(version: int, files: Mapping[str, bytes]) -> Installed:
    return Installed(
        version=version,
        model=sha256(files[MODEL]),
        spec=sha256(files[SPEC]),
        manifest=sha256(files[MANIFEST]),
        answering=sha256(files[ANSWERING]),
    )
