"""Become another program that dies with its parent and, where asked, as another user.

Run as ``python -I exec_child.py PARENT_PID UID GID PROGRAM ARGUMENTS...`` (UID and GID ``-`` to keep).
Doing it here, after the fork and in a fresh interpreter, avoids ``preexec_fn``, which is not safe in
a process with threads. The order matters: changing the user clears the parent-death signal (prctl(2)).
Standard library only, no imports of ours: it runs isolated.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM when the starting thread ends (Linux; elsewhere `stop` must do)."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the signal was armed
        sys.exit(0)


def main(argv: list[str]) -> None:
    parent, uid, gid, *command = argv
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    die_with_parent(int(parent))
    os.execv(command[0], command)  # noqa: S606 - becoming the program is the point


if __name__ == "__main__":
    main(sys.argv[1:])
