"""One picture from a camera, by the command that the board's owner names: rpicam-still, fswebcam, a script.

No shell runs: the command is split into arguments once, and ``{file}`` in them becomes the path to write.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from compression.errors import BrambleError

PLACE = "{file}"
TIMEOUT_S = 30.0  # rpicam-still looks at the light for five seconds first


class CameraError(BrambleError, RuntimeError):
    """There is no picture; the message says what the command said."""


def camera_command(template: str) -> tuple[str, ...]:
    """The arguments of a command; raise `CameraError` unless one of them holds ``{file}``."""
    try:
        arguments = tuple(shlex.split(template))
    except ValueError as exc:
        raise CameraError(f"camera command {template!r}: {exc}") from exc
    if not any(PLACE in argument for argument in arguments):
        raise CameraError(
            f"camera command {template!r} does not say {PLACE}, as in: rpicam-still -n -o {PLACE}"
        )
    return arguments


def take_picture(command: tuple[str, ...], file: Path, *, timeout_s: float = TIMEOUT_S) -> None:
    """Run the command for `file`; raise `CameraError` if it fails, takes too long or writes nothing."""
    arguments = [argument.replace(PLACE, str(file)) for argument in command]
    file.unlink(missing_ok=True)  # what an earlier command left would be answered as this one's picture
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise CameraError(f"{arguments[0]} took no picture within {timeout_s:g} s") from exc
    except OSError as exc:
        raise CameraError(f"{arguments[0]}: {exc.strerror or exc}") from exc
    if done.returncode or not file.is_file() or not file.stat().st_size:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise CameraError(f"{arguments[0]} took no picture: {said[-1][:200] if said else 'it said nothing'}")
