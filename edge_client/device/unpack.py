"""A client's archive becomes the client of a slot: unpacked beside the running one, then pointed at."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path
from typing import IO

from edge_client.device.slots import (
    CLIENT,
    POINTER,
    SITE,
    SLOTS,
    TRIAL,
    SlotError,
    client_of,
    free_slot,
    read_json,
    sync_folder,
    write_json,
)

MAX_FILES, MAX_UNPACKED_BYTES = 50_000, 2 << 30


def install(prefix: Path, state: Path, archive: IO[bytes], *, durable: bool = True) -> str:
    """Unpack a client beside the one that is proven and let it run from the next start on; its slot.

    Args:
        prefix: the folder of both.
        state: the service's, with the trial.
        archive: ``client.tar.gz``.
        durable: wait until the disk has it all; a test need not.

    Raises:
        SlotError: the archive is not a client; the proven one stands.
    """
    slot = free_slot(prefix, state)
    other = SLOTS[1 - SLOTS.index(slot)]
    proven = other if client_of(prefix, other) else ""
    fresh = extract(archive, prefix / slot, durable=durable)
    if proven:  # in a trial, and after a failed one, the pointer names the slot that is about to be replaced
        write_json(prefix / POINTER, {"active": proven})
    (state / TRIAL).unlink(missing_ok=True)  # whoever failed one may have another
    replace(prefix / slot, fresh)
    write_json(prefix / POINTER, {"active": slot} | ({"previous": proven} if proven else {}))
    return slot


def extract(archive: IO[bytes], folder: Path, *, durable: bool) -> Path:
    """What is in ``client.tar.gz``, beside the folder that it is for; `SlotError` if it is no client."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        _extract(archive, fresh)
    except (tarfile.TarError, EOFError, ValueError, OSError) as exc:
        shutil.rmtree(fresh, ignore_errors=True)
        raise SlotError(f"the client's archive cannot be unpacked: {exc}") from exc
    if durable:
        os.sync()  # one call for a thousand files, before the name changes
    return fresh


def replace(folder: Path, fresh: Path) -> None:
    """Put a folder that is whole in another's place."""
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    sync_folder(folder.parent)


def _extract(archive: IO[bytes], fresh: Path) -> None:
    left, count = MAX_UNPACKED_BYTES, 0
    with tarfile.open(fileobj=archive, mode="r|gz") as tar:
        for member in tar:
            parts = Path(member.name).parts
            count, left = count + 1, left - member.size
            inside = parts[:1] == (SITE,) or parts == (CLIENT,)
            if not member.isfile() or ".." in parts or not inside or left < 0 or count > MAX_FILES:
                raise ValueError(f"{member.name[:80]!r} does not belong into a client")
            source, target = tar.extractfile(member), fresh / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(source, file) if source else None
            target.chmod(0o644)
    if not read_json(fresh / CLIENT) or not (fresh / SITE).is_dir():
        raise ValueError("it holds no client.json and no site")
