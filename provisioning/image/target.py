"""An opened target: a disk that nobody else holds, or a regular file. Positions and sizes in bytes."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import time
from pathlib import Path

from provisioning.image.blockdev import Disk, find_disk
from provisioning.image.errors import FlashError, RefusedError, VerifyError
from provisioning.image.page_cache import resident_pages

CHUNK = 4 << 20  # of one write and of one digest; a multiple of every card's erase block
HELD_BACK = 1 << 20  # what is written last: partition table and boot record, before the first partition
FILE_BLOCK = 4096  # alignment of direct I/O on files
SYNC_EVERY = 64 << 20  # without direct I/O, so that progress is of the medium and not of the cache
BLKGETSIZE64, BLKSSZGET, BLKFLSBUF = 0x80081272, 0x1268, 0x1261  # linux/fs.h
DROP_TRIES, DROP_PAUSE_S = 20, 0.05  # udev looks at a disk after each program that wrote to it


def buffer(size: int = CHUNK) -> mmap.mmap:
    """Memory aligned as direct I/O wants it."""
    return mmap.mmap(-1, size)


class Target:
    """What is written to. `fresh` says that it reads as zeros wherever nothing was written."""

    def __init__(self, path: Path, descriptor: int, *, disk: Disk | None, direct: bool) -> None:
        self.path = path
        self.disk = disk
        self.direct = direct
        self.fresh = disk is None
        self.block = FILE_BLOCK if disk is None else _ioctl_number(descriptor, BLKSSZGET, "i")
        self.stopped = False  # set from another thread: reading and writing end at the next chunk
        self._descriptor = descriptor
        self._unsynced = 0

    @property
    def capacity(self) -> int | None:
        """Of a disk; None for a file, which grows."""
        return None if self.disk is None else self.disk.size

    def write(self, data: memoryview, position: int) -> None:
        """All of `data`; both position and size are multiples of `block`."""
        self._go_on()
        self._write(data, position)
        if not self.direct and self._unsynced >= SYNC_EVERY:
            self.sync()

    def _write(self, data: memoryview, position: int) -> None:
        while data:
            count = os.pwrite(self._descriptor, data, position)
            data, position = data[count:], position + count
            self._unsynced += count

    def padded(self, size: int) -> int:
        """The next multiple of `block`."""
        return -(-size // self.block) * self.block

    def read(self, into: memoryview, position: int) -> int:
        """Fill `into` from the medium, not from the page cache; fewer bytes at the end of the target.

        Raises:
            VerifyError: the cache cannot be bypassed here.
        """
        if not self.direct:
            raise VerifyError(
                f"{self.path}: this file system has no direct I/O, so what was written cannot be verified; "
                "write to another one"
            )
        self._go_on()
        filled = 0
        while filled < len(into):
            count = os.preadv(self._descriptor, [into[filled:]], position + filled)
            filled += count
            if count == 0 or count % self.block:
                break
        return filled

    def _go_on(self) -> None:
        if self.stopped:
            raise FlashError(f"{self.path}: stopped")

    def sync(self) -> None:
        """Return once the medium has everything."""
        os.fsync(self._descriptor)
        self._unsynced = 0

    def blank_head(self) -> None:
        """Erase the partition table: from now on the target does not look like a card. A file is emptied."""
        if self.disk is None:
            os.ftruncate(self._descriptor, 0)
        else:
            with buffer(HELD_BACK) as zeros:
                self._write(memoryview(zeros)[: min(HELD_BACK, self.disk.size)], 0)  # also when stopped
        self.sync()

    def write_head(self, head: bytes) -> None:
        """The last thing that is written."""
        with buffer(HELD_BACK) as memory:
            memory[: len(head)] = head
            self.write(memoryview(memory)[: self.padded(len(head))], 0)
        self.sync()

    def set_size(self, size: int) -> None:
        """Cut or extend a file; a disk is as it is."""
        if self.disk is None:
            os.ftruncate(self._descriptor, size)

    def drop_cache(self) -> None:
        """Make the next buffered read, by whatever program, one from the medium.

        Raises:
            VerifyError: the page cache keeps something.
        """
        self.sync()
        for _ in range(DROP_TRIES):
            if self.disk is not None:
                fcntl.ioctl(self._descriptor, BLKFLSBUF)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            pages = resident_pages(self._descriptor, self.size())
            if pages == 0:
                return
            time.sleep(DROP_PAUSE_S)
        raise VerifyError(f"{self.path}: {pages} pages stay in the page cache, so nothing can be verified")

    def size(self) -> int:
        """As it is now."""
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def check_identity(self) -> None:
        """The open descriptor is the disk that the plan showed, and lsblk still says the same of it.

        Raises:
            RefusedError: another disk, or another medium in the same reader.
        """
        if self.disk is None:
            return
        device = os.fstat(self._descriptor).st_rdev
        number = f"{os.major(device)}:{os.minor(device)}"
        now = find_disk(self.path)
        opened = (number, _ioctl_number(self._descriptor, BLKGETSIZE64, "Q"), now.serial, now.sequence)
        if opened != (self.disk.number, self.disk.size, self.disk.serial, self.disk.sequence):
            raise RefusedError(f"{self.path} is not the disk that was shown any more: plan again")

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


def open_target(path: Path, disk: Disk | None) -> Target:
    """Open for this program alone. Nothing is written yet, and an existing file keeps its content.

    Raises:
        RefusedError: in use by another program, or no permission.
    """
    try:
        return _open_disk(path, disk) if disk is not None else _open_file(path)
    except PermissionError as exc:
        raise RefusedError(f"{path}: no permission to write: use sudo, or join the group disk") from exc
    except OSError as exc:
        if exc.errno in (errno.EBUSY, errno.EAGAIN, errno.EACCES):
            raise RefusedError(f"{path} is in use by another program or by the system") from exc
        raise FlashError(f"{path}: {exc.strerror}") from exc


def _open_disk(path: Path, disk: Disk) -> Target:
    # O_EXCL on a block device: nobody else has it so, no partition of it is mounted. No second try without.
    descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC)
    try:
        if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
            raise RefusedError(f"{path} is not a block device any more: plan again")
        return Target(path, descriptor, disk=disk, direct=True)
    except BaseException:
        os.close(descriptor)
        raise


def _open_file(path: Path) -> Target:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    direct = True
    try:
        descriptor = os.open(path, flags | os.O_DIRECT, 0o600)  # a personalised card holds secrets
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        direct = False
        descriptor = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RefusedError(f"{path} is not a regular file any more: plan again")
        # A lock of this open file: those of mtools, which works on the file meanwhile, are of another kind.
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        return Target(path, descriptor, disk=None, direct=direct)
    except BaseException:
        os.close(descriptor)
        raise


def _ioctl_number(descriptor: int, request: int, form: str) -> int:
    answer = fcntl.ioctl(descriptor, request, bytes(struct.calcsize(form)))
    return int(struct.unpack(form, answer)[0])
