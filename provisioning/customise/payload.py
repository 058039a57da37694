"""What is copied onto a card besides its settings: files of the boot partition and of the root file system.

Whoever builds the install payload (`provisioning.bundle`) hands over these values and knows nothing of
FAT, ext4 or images; whoever writes them knows nothing of what they are for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from provisioning.customise.errors import CustomiseError

BOOT_MOUNT = PurePosixPath("/boot/firmware")  # where Raspberry Pi OS mounts the boot partition since bookworm
MAX_PATH = 1024
LINK_TARGET = re.compile(r"[A-Za-z0-9._@/+-]{1,59}")  # a longer one lies where debugfs does not show it

Content = bytes | Path  # bytes of a small file, or a file of this machine that is copied as it is


@dataclass(frozen=True, slots=True)
class BootFile:
    """A file of the FAT boot partition, which has no owners and no modes: whoever mounts it reads it."""

    path: str  # relative to the partition, as "bramble/edge.toml"
    content: Content

    def __post_init__(self) -> None:
        _check_parts(self.path, PurePosixPath(self.path), absolute=False)


@dataclass(frozen=True, slots=True)
class RootFile:
    """A file of the ext4 root file system. Folders above it that are missing are made: root's, 0755."""

    path: str  # absolute, as "/opt/bramble/site/edge_client/__init__.py"
    content: Content
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)  # user and group, by number

    def __post_init__(self) -> None:
        _check_parts(self.path, PurePosixPath(self.path), absolute=True)


@dataclass(frozen=True, slots=True)
class RootFolder:
    """A folder of the root file system that is not simply root's with mode 0755."""

    path: str
    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        _check_parts(self.path, PurePosixPath(self.path), absolute=True)


@dataclass(frozen=True, slots=True)
class RootLink:
    """A symbolic link of the root file system, as the one that enables a unit."""

    path: str
    target: str

    def __post_init__(self) -> None:
        _check_parts(self.path, PurePosixPath(self.path), absolute=True)
        if not LINK_TARGET.fullmatch(self.target):
            raise CustomiseError(
                f"link {self.path}: {self.target[:80]!r} is not a path of 1 to 59 characters"
            )


RootEntry = RootFile | RootFolder | RootLink


@dataclass(frozen=True, slots=True)
class Payload:
    """All that goes onto one card, and what its first boot runs (argument lists, as root, in this order)."""

    boot: tuple[BootFile, ...] = ()
    root: tuple[RootEntry, ...] = ()
    first_boot: tuple[tuple[str, ...], ...] = ()


def content_bytes(content: Content) -> bytes:
    """The bytes themselves."""
    return content if isinstance(content, bytes) else content.read_bytes()


def _check_parts(text: str, path: PurePosixPath, *, absolute: bool) -> None:
    """Refuse what would mean something else to mtools or debugfs, which read their commands as text."""
    control = any(ord(character) < 32 or character in '"\\' or ord(character) == 127 for character in text)
    plain = str(path) == text and ".." not in path.parts and len(text) <= MAX_PATH
    if control or not plain or path.is_absolute() != absolute or text in {"", ".", "/"}:
        kind = "an absolute" if absolute else "a relative"
        raise CustomiseError(f"path {text[:80]!r} is not {kind} path that can be put on a card")
