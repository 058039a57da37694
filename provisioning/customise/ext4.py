"""The root file system, by debugfs: files in and out of an ext4 at an offset, without mounting it.

debugfs says "exit status 0" whatever happened, so nothing here believes it: what is to be replaced is
looked up before, and what was written is read back and compared after (`provisioning.customise.readback`).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from provisioning.customise.errors import CustomiseError
from provisioning.customise.payload import RootEntry, RootFile, RootFolder
from provisioning.customise.tools import last_line, read_bounded, run_tool

Kind = Literal["regular", "directory", "symlink", "other"]
PROMPT = b"debugfs: "
_STAT = re.compile(rb"Type: (\w[\w ]*?)\s+Mode:\s+(\d+)")
_OWNER = re.compile(rb"User:\s+(\d+)\s+Group:\s+(\d+)")
_LINK = re.compile(rb'Fast link dest: "(.*)"')


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at a path."""

    kind: Kind
    mode: int
    owner: tuple[int, int]
    link: str | None = None


class RootPartition:
    """One ext4 partition of an image file or a card."""

    def __init__(self, target: Path, offset: int) -> None:
        self._name = f"{target}?offset={offset}" if offset else str(target)

    def read(self, path: str) -> bytes | None:
        """A regular file's bytes; None where there is none."""
        found = self.stat([path])[0]
        if found is None or found.kind != "regular":
            return None
        with tempfile.TemporaryDirectory(prefix="bramble-root-") as name:
            self.read_all([path], Path(name))
            return read_bounded(Path(name) / "0", f"root file system: {path}")

    def read_all(self, paths: Sequence[str], folder: Path) -> None:
        """Copy regular files out to ``folder/0``, ``folder/1``, ...; raise for one that is missing."""
        self._run([f'dump "{path}" "{folder}/{number}"' for number, path in enumerate(paths)])
        for number, path in enumerate(paths):
            if not (folder / str(number)).is_file():
                raise CustomiseError(f"root file system: {path} cannot be read")

    def stat(self, paths: Sequence[str]) -> list[Found | None]:
        """What stands at each path, links not followed; None for nothing."""
        answers = self._run([f'stat "{path}"' for path in paths])
        return [_parse(answer) for answer in answers]

    def write(self, entries: Sequence[RootEntry]) -> None:
        """Put files, folders and links in place, replacing files and links that are there.

        Raises:
            CustomiseError: the file system was not unmounted cleanly, has no room, or a path leads
                through a link or a file.
        """
        if not entries:
            return
        self._check_state(entries)
        parents = _parents(entries)
        present = dict(zip(parents, self.stat(parents), strict=True))
        places = dict(
            zip((entry.path for entry in entries), self.stat([e.path for e in entries]), strict=True)
        )
        for path, found in present.items():
            if found is not None and found.kind != "directory":
                raise CustomiseError(f"root file system: {path} is a {found.kind}; give the real path")
        with tempfile.TemporaryDirectory(prefix="bramble-root-") as name:  # 0700: it may hold secrets
            commands = [line for path in parents if present[path] is None for line in _make_folder(path)]
            for number, entry in enumerate(entries):
                commands += _put(entry, places[entry.path], Path(name) / str(number))
            self._run(commands, write=True)

    def _check_state(self, entries: Sequence[RootEntry]) -> None:
        stats = self._run(["stats -h"])[0].decode("utf-8", "replace")
        values = dict(re.findall(r"^([^:\n]+):\s+(.*)$", stats, re.MULTILINE))
        if "needs_recovery" in values.get("Filesystem features", ""):
            raise CustomiseError("root file system was not unmounted cleanly: use a fresh image")
        try:
            block = int(values["Block size"])
            room = int(values["Free blocks"]) * block  # the reserved ones too: they are root's, as the files
            free_inodes = int(values["Free inodes"])
        except (KeyError, ValueError) as exc:
            raise CustomiseError("root file system: not one that debugfs can read") from exc
        needed = sum(-(-_size(entry) // block) * block for entry in entries)
        if needed > room or len(entries) > free_inodes:
            raise CustomiseError(
                f"root file system: {needed} bytes in {len(entries)} files to write, "
                f"{room} free; use --mode bundle"
            )

    def _run(self, commands: Sequence[str], *, write: bool = False) -> list[bytes]:
        """debugfs's answer to each command."""
        with tempfile.NamedTemporaryFile("w", prefix="bramble-debugfs-", encoding="utf-8") as script:
            script.write("".join(f"{command}\n" for command in commands))
            script.flush()
            result = run_tool("debugfs", (*(("-w",) if write else ()), "-f", script.name, self._name))
        answers = result.stdout.split(PROMPT)[1:]
        if result.returncode or b"Bad magic number" in result.stderr or len(answers) != len(commands):
            raise CustomiseError(f"root file system: debugfs: {last_line(result)}")
        return answers


def _parents(entries: Iterable[RootEntry]) -> list[str]:
    """Every folder above the entries, and those that are entries' own, the outer ones first."""
    found = {str(parent) for entry in entries for parent in PurePosixPath(entry.path).parents}
    return sorted(found - {"/"}, key=lambda path: (path.count("/"), path))


def _make_folder(path: str) -> list[str]:
    return [f'mkdir "{path}"', *_give(path, 0o040755, (0, 0))]


def _give(path: str, mode: int, owner: tuple[int, int]) -> list[str]:
    user, group = owner
    return [f'sif "{path}" mode 0{mode:o}', f'sif "{path}" uid {user}', f'sif "{path}" gid {group}']


def _put(entry: RootEntry, present: Found | None, stage: Path) -> list[str]:
    if isinstance(entry, RootFolder):
        make = [] if present is not None else [f'mkdir "{entry.path}"']
        return [*make, *_give(entry.path, 0o040000 | entry.mode, entry.owner)]
    if present is not None and present.kind == "directory":
        raise CustomiseError(f"root file system: {entry.path} is a folder")
    remove = [] if present is None else [f'rm "{entry.path}"']
    if not isinstance(entry, RootFile):
        return [*remove, f'symlink "{entry.path}" "{entry.target}"']
    if isinstance(entry.content, bytes):
        stage.write_bytes(entry.content)
    else:
        stage.symlink_to(entry.content.resolve(strict=True))
    place = PurePosixPath(entry.path)  # write makes a name in the current folder, whatever is in the name
    commands = [*remove, f'cd "{place.parent}"', f'write "{stage}" "{place.name}"', "cd /"]
    return [*commands, *_give(entry.path, 0o100000 | entry.mode, entry.owner)]


def _size(entry: RootEntry) -> int:
    if not isinstance(entry, RootFile):
        return 1
    try:
        return len(entry.content) if isinstance(entry.content, bytes) else entry.content.stat().st_size
    except OSError as exc:
        raise CustomiseError(f"{entry.content!s}: {exc.strerror or exc}") from exc


def _parse(answer: bytes) -> Found | None:
    found, owner, link = _STAT.search(answer), _OWNER.search(answer), _LINK.search(answer)
    if found is None or owner is None:
        return None
    kinds: dict[bytes, Kind] = {b"regular": "regular", b"directory": "directory", b"symlink": "symlink"}
    return Found(
        kind=kinds.get(found[1], "other"),
        mode=int(found[2], 8) & 0o7777,
        owner=(int(owner[1]), int(owner[2])),
        link=link[1].decode("utf-8", "replace") if link else None,
    )
