"""How much of a file or disk the kernel holds in memory: mincore(2), which Python does not offer."""

from __future__ import annotations

import ctypes
import mmap
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
STEP = 1 << 30  # bytes looked at in one call: a table of 256 KiB


def resident_pages(descriptor: int, size: int) -> int:
    """Pages of the first `size` bytes that a buffered read would not fetch from the medium.

    Raises:
        OSError: the kernel does not tell.
    """
    found = 0
    for start in range(0, size, STEP):
        length = min(STEP, size - start)
        with mmap.mmap(descriptor, length, mmap.MAP_SHARED, offset=start) as view:
            found += _resident(view, length)
    return found


def _resident(view: mmap.mmap, length: int) -> int:
    pages = -(-length // mmap.PAGESIZE)
    table = (ctypes.c_ubyte * pages)()
    first = ctypes.c_char.from_buffer(view)
    try:
        failed = _LIBC.mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(length), ctypes.byref(table)
        )
        if failed:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        del first  # the view cannot be closed while it is pointed at
    return sum(value & 1 for value in bytes(table))
