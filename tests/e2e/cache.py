"""What is slow to make is made once: a folder outside git, each thing under the digest of its recipe."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cache:
    """A folder of files and folders that can be made again at any time."""

    folder: Path

    def get(self, name: str, recipe: Any, build: Callable[[Path], None]) -> Path:
        """The thing made by `recipe` (anything JSON can hold), built if it is not there.

        `build` is given a path beside the final one: what it leaves there is moved in one rename, so an
        interrupted build is never taken for a finished one.
        """
        stem, dot, suffix = name.partition(".")
        path = self.folder / f"{stem}-{digest(recipe)}{dot}{suffix}"
        if path.exists():
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part{os.getpid()}")
        print(f"building {path.name}: it is kept in {self.folder}", flush=True)
        try:
            build(part)
            part.rename(path)
        finally:
            if part.is_dir():
                shutil.rmtree(part)
            part.unlink(missing_ok=True)
        return path


def digest(recipe: Any) -> str:
    """Twelve hexadecimal digits that change with anything in the recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
