"""Programs of other packages, found on PATH or asked for by the name of their Debian package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from provisioning.customise.errors import CustomiseError

PACKAGES = {
    "mcopy": "mtools",
    "mdir": "mtools",
    "mdel": "mtools",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
}
MAX_READ_BYTES = 16 << 20  # of a file that is looked into: settings and logs are far smaller
TIMEOUT_S = 1800  # a slow card and a hundred megabytes
ADMINISTRATORS = ("/usr/sbin", "/sbin")  # Debian keeps debugfs where a user's PATH does not look


def find_tool(name: str) -> str:
    """The program's path.

    Raises:
        CustomiseError: it is not installed; the message names the package.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *ADMINISTRATORS))
    found = shutil.which(name, path=path)
    if found is None:
        package = PACKAGES.get(name, name)
        raise CustomiseError(f"{name} is not installed; install it with: sudo apt install {package}")
    return found


def have_tool(name: str) -> bool:
    """Whether the program is there."""
    try:
        find_tool(name)
    except CustomiseError:
        return False
    return True


def run_tool(name: str, arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end, in one language and without a user's settings; the caller looks at the status."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "MTOOLSRC": os.devnull,  # a user's drive letters and flags change what mtools does
        "MTOOLS_SKIP_CHECK": "1",  # images made for a card's geometry are refused otherwise
        "DEBUGFS_PAGER": "cat",
        "TZ": "UTC",
    }
    try:
        return subprocess.run(
            [find_tool(name), *map(str, arguments)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise CustomiseError(f"{name} did not end within {TIMEOUT_S} s") from exc


def last_line(result: subprocess.CompletedProcess[bytes]) -> str:
    """What a tool said last, short enough for an error."""
    lines = (result.stderr or result.stdout).decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else f"exit status {result.returncode}"


def read_bounded(copy: Path, what: str) -> bytes:
    """The bytes of a file that a tool has copied out of an image."""
    size = copy.stat().st_size
    if size > MAX_READ_BYTES:
        raise CustomiseError(f"{what} has {size} bytes: too many for settings or a log")
    return copy.read_bytes()
