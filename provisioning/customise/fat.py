"""The boot partition, by mtools: files in and out of a FAT at an offset, without mounting it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from provisioning.customise.errors import CustomiseError
from provisioning.customise.payload import BootFile
from provisioning.customise.tools import last_line, read_bounded, run_tool


class BootPartition:
    """One FAT partition of an image file or a card."""

    def __init__(self, target: Path, offset: int) -> None:
        self._drive = ("-i", f"{target}@@{offset}")

    def names(self, folder: str = "") -> list[str]:
        """Files and folders in a folder (folders end in ``/``), sorted; empty where it is not there."""
        result = run_tool("mdir", (*self._drive, "-b", f"::/{folder}"))
        if result.returncode and b"not found" not in result.stderr:
            raise CustomiseError(f"boot partition: {last_line(result)}")
        prefix = f"::/{folder}/" if folder else "::/"
        lines = result.stdout.decode("utf-8", "replace").splitlines()
        return sorted(
            line.removeprefix(prefix) for line in lines if line.startswith(prefix) and line != prefix
        )

    def read(self, path: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        with tempfile.TemporaryDirectory(prefix="bramble-read-") as name:  # 0700: it may be a secret
            place = Path(name) / "0"
            result = run_tool("mcopy", (*self._drive, f"::/{path}", place))
            if b"not found" in result.stderr:
                return None
            if result.returncode or not place.is_file():
                raise CustomiseError(f"boot partition: {path}: {last_line(result)}")
            return read_bounded(place, f"boot partition: {path}")

    def read_all(self, paths: Sequence[str], folder: Path) -> None:
        """Copy files out to ``folder/0``, ``folder/1``, ...; raise for one that is missing."""
        for number, path in enumerate(paths):
            result = run_tool("mcopy", (*self._drive, f"::/{path}", folder / str(number)))
            if result.returncode:
                raise CustomiseError(f"boot partition: {path}: {last_line(result)}")

    def free_bytes(self) -> int:
        """Room that is left."""
        result = run_tool("mdir", (*self._drive, "::/"))
        found = re.search(rb"([\d ]+) bytes free", result.stdout)
        if result.returncode or found is None:
            raise CustomiseError(f"boot partition: not a FAT file system: {last_line(result)}")
        return int(found[1].replace(b" ", b""))

    def check(self, files: Sequence[BootFile]) -> None:
        """Whether they can be put in place.

        Raises:
            CustomiseError: two names differ by case alone, which FAT does not tell apart; no room; a
                source that cannot be read.
        """
        _check_names(files)
        needed, free = sum(_size(file) for file in files), self.free_bytes()
        if needed > free:
            raise CustomiseError(f"boot partition: {needed} bytes to write, {free} free")

    def write(self, files: Sequence[BootFile]) -> None:
        """Put files in place, replacing those that are there, in one run of mcopy. `check` them before."""
        with tempfile.TemporaryDirectory(prefix="bramble-boot-") as name:  # 0700: it may hold secrets
            stage = Path(name)
            for file in files:
                _stage(file, stage / file.path)
            tops = sorted(stage.iterdir())
            # s: folders with all that is in them, o: replace without asking, Q: stop at the first failure.
            result = run_tool("mcopy", (*self._drive, "-s", "-o", "-Q", *tops, "::/")) if tops else None
        if result is not None and result.returncode:
            raise CustomiseError(f"boot partition: {last_line(result)}")


def _stage(file: BootFile, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(file.content, bytes):
        place.write_bytes(file.content)
    else:
        place.symlink_to(file.content.resolve(strict=True))


def _size(file: BootFile) -> int:
    try:
        return len(file.content) if isinstance(file.content, bytes) else file.content.stat().st_size
    except OSError as exc:
        raise CustomiseError(f"{file.content!s}: {exc.strerror or exc}") from exc


def _check_names(files: Sequence[BootFile]) -> None:
    seen: dict[str, str] = {}
    for file in files:
        other = seen.setdefault(file.path.casefold(), file.path)
        if other != file.path or sum(1 for each in files if each.path == file.path) > 1:
            raise CustomiseError(f"{file.path} and {other} are one name on the boot partition")
