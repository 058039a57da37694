"""A folder that is watched: every picture that comes into it is answered once, in a file of JSON lines.

By looking, not by inotify: network shares and USB sticks tell nobody what changes on them. A file is read
once it has stayed the same for two looks, so nothing half copied is answered. What was answered is read from
the results themselves, so a restart goes on, and a line that a power cut tore is written again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compression.spec import ImageInput
from edge_client.data.files import SUFFIXES
from edge_client.inference.camera import CameraError, take_picture
from edge_client.inference.installed import SlotError
from edge_client.inference.predict import Answers, Prediction, predict_files

log = logging.getLogger(__name__)

SHOT = "camera-{number:06}.jpg"
Stamp = tuple[int, int]  # size and time of change in nanoseconds


@dataclass(frozen=True, slots=True)
class Camera:
    """Takes a picture into the folder at each look; the oldest are removed.

    Attributes:
        command: of `edge_client.inference.camera`.
        keep: pictures.
    """

    command: tuple[str, ...]
    keep: int = 100


class Results:
    """The file of answers: one JSON object a line, appended and synced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done: dict[str, Stamp] = {}
        self._read()

    def add(self, stamp: Stamp, rows: list[Prediction]) -> None:
        """Write a file's answers in one go."""
        size, changed = stamp
        plain = [dataclasses.asdict(row) | {"size": size, "mtime_ns": changed} for row in rows]
        with self._path.open("ab") as file:
            file.write("".join(json.dumps(row) + "\n" for row in plain).encode())
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("r+b") as file:
            whole = 0
            for line in file:
                if not line.endswith(b"\n"):
                    log.warning("%s: the last line was cut off and is written again", self._path)
                    file.truncate(whole)
                    break
                whole += len(line)
                self._note(line)

    def _note(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            self.done[_path_of(str(row["file"]))] = (int(row["size"]), int(row["mtime_ns"]))
        except (ValueError, KeyError, TypeError):
            log.warning("%s: a line is not one of ours", self._path)


class Watcher:
    """One folder, its subfolders left out."""

    def __init__(self, folder: Path, results: Results, model: Answers) -> None:
        self._folder = folder
        self._results = results
        self._model = model
        self._seen: dict[str, Stamp] = {}

    def look(self) -> list[Prediction]:
        """Answer what has stayed the same since the last look and is not answered yet."""
        before, self._seen = self._seen, dict(self._listed())
        answered: list[Prediction] = []
        for path, stamp in sorted(self._seen.items()):
            if before.get(path) != stamp or self._results.done.get(path) == stamp:
                continue
            rows = list(predict_files(self._model, [Path(path)]))
            self._results.add(stamp, rows)
            self._results.done[path] = stamp
            answered += rows
        return answered

    def _listed(self) -> Iterator[tuple[str, Stamp]]:
        image = isinstance(self._model.model.spec.input, ImageInput)
        suffixes = SUFFIXES if image else frozenset({".csv"})
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in suffixes:
                    continue
                try:
                    found = entry.stat()
                except OSError:  # gone since it was listed
                    continue
                if stat.S_ISREG(found.st_mode) and found.st_size:
                    yield entry.path, (found.st_size, found.st_mtime_ns)


def watch(
    watcher: Watcher, folder: Path, stop: threading.Event, *, every_s: float, camera: Camera | None = None
) -> Iterator[Prediction]:
    """Look until told to stop; a camera or a disk that fails, or no model, is logged and tried again."""
    while not stop.is_set():
        try:
            if camera is not None:
                shoot(camera, folder)
            yield from watcher.look()
        except (CameraError, SlotError, OSError) as exc:
            log.warning("%s", exc)
        stop.wait(every_s)


def shoot(camera: Camera, folder: Path) -> Path:
    """Take a picture into the folder, whole from the moment it has its name; the oldest make room."""
    shots = sorted(folder.glob("camera-*.jpg"))
    number = 1 + max((int(shot.stem[7:]) for shot in shots if shot.stem[7:].isdecimal()), default=0)
    temporary = folder / ".camera.jpg"
    take_picture(camera.command, temporary)
    for shot in shots[: max(0, len(shots) - camera.keep + 1)]:
        shot.unlink(missing_ok=True)
    return temporary.rename(folder / SHOT.format(number=number))


def _path_of(name: str) -> str:
    """The file of a row; rows of a table are named ``path:row``."""
    path, _, row = name.rpartition(":")
    return path if path and row.isdecimal() and path.lower().endswith(".csv") else name
