"""Bramble's own wheel, built from the source tree that this program runs from.

From a copy: setuptools leaves a ``build`` folder behind whose stale files would get into the next wheel.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from provisioning.wheelhouse.errors import WheelhouseError
from provisioning.wheelhouse.wheels import Wheel

SOURCE = Path(__file__).resolve().parents[2]
FILES = ("setup.py", "pyproject.toml", "README.md")
DEVICE_PACKAGES = ("compression", "edge_client")  # what of it a device runs


def source_digest(source: Path = SOURCE) -> str:
    """SHA-256 over names and contents of what a device gets of it: its packages and what they require."""
    digest = hashlib.sha256()
    for path in sorted([source / "setup.py", *_files_of(source, DEVICE_PACKAGES)]):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(source)}\0{content}\n".encode())
    return digest.hexdigest()


def build_own_wheel(folder: Path, *, source: Path = SOURCE) -> Wheel:
    """Build the wheel into `folder`.

    Raises:
        WheelhouseError: this program was not started from a source tree, or the build failed.
    """
    if not (source / "setup.py").is_file():
        raise WheelhouseError(
            "this is an installed copy without its sources: give its wheel with --bramble-wheel FILE"
        )
    with tempfile.TemporaryDirectory(prefix="bramble-wheel-") as scratch:
        copy, out = Path(scratch) / "source", Path(scratch) / "out"
        for path in _sources(source):
            target = copy / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        _run_pip_wheel(copy, out)
        built = next(out.glob("*.whl"))
        return Wheel.of(Path(shutil.copy(built, folder / built.name)))


def _run_pip_wheel(source: Path, out: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WheelhouseError(
            f"the wheel cannot be built ({last[:200]}): pip install -U 'setuptools>=68' wheel"
        )


def _sources(source: Path) -> Iterator[Path]:
    yield from (source / name for name in FILES)
    yield from _files_of(source, ("benchmarks", "broker_server", "provisioning", *DEVICE_PACKAGES))


def _files_of(source: Path, packages: Iterable[str]) -> Iterator[Path]:
    for package in packages:
        for path in (source / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path
