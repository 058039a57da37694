"""Small wheels and Debian packages, made on the spot."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.specifiers import SpecifierSet

from provisioning.wheelhouse.errors import WheelhouseError
from provisioning.wheelhouse.resolve import Fetch
from provisioning.wheelhouse.targets import System
from provisioning.wheelhouse.wheels import Wheel


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    requires: Iterable[str] = (),
    files: Mapping[str, bytes] | None = None,
    *,
    tag: str = "py3-none-any",
    record: Mapping[str, str] | None = None,
) -> Path:
    """A wheel; `record` replaces digests of RECORD."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {line}" for line in requires]
    wheel = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    contents = {f"{name}/__init__.py": f"VERSION = {version!r}\n".encode()} if files is None else dict(files)
    contents |= {f"{info}/METADATA": "\n".join([*metadata, "", ""]).encode(), f"{info}/WHEEL": wheel.encode()}
    digests = {place: _digest(data) for place, data in contents.items()} | dict(record or {})
    rows = [f"{place},{digest},{len(contents[place])}" for place, digest in digests.items()]
    contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for place, data in contents.items():
            archive.writestr(place, data)
    return path


def bramble_wheel(folder: Path, requires: Iterable[str] = (), version: str = "1.0", code: str = "") -> Path:
    """A stand-in for Bramble's own wheel, with a client that runs `code`."""
    files = {
        "edge_client/__init__.py": b"",
        "edge_client/cli.py": (code or "print('client')\n").encode(),
        "compression/__init__.py": b"",
        "broker_server/__init__.py": b"raise SystemExit('not for devices')\n",
    }
    return make_wheel(folder, "bramble", version, requires, files)


def index(folder: Path, asked: list[str] | None = None) -> Fetch:
    """Something that fetches the newest wheels of a folder that fit, as pip does."""

    def fetch(system: System, bounds: Mapping[str, SpecifierSet], target: Path) -> None:
        for name, bound in bounds.items():
            fitting = [
                wheel
                for wheel in map(Wheel.of, folder.glob("*.whl"))
                if wheel.name == name and bound.contains(wheel.version)
            ]
            if not fitting:
                raise WheelhouseError(f"{system.name}: no matching distribution found for {name}{bound}")
            newest = max(fitting, key=lambda wheel: tuple(map(int, wheel.version.split("."))))
            (target / newest.path.name).write_bytes(newest.path.read_bytes())
            if asked is not None:
                asked.append(f"{name}{bound}")

    return fetch


def make_deb(folder: Path, name: str, files: Mapping[str, bytes], links: Mapping[str, str]) -> Path:
    """A Debian package for armhf."""
    tree = folder / f"{name}.tree"
    for place, data in {
        "DEBIAN/control": f"Package: {name}\nVersion: 1.0-1\nArchitecture: armhf\n"
        "Maintainer: nobody <nobody@example.invalid>\nDescription: test\n".encode(),
        **files,
    }.items():
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).write_bytes(data)
    for place, target in links.items():
        (tree / place).symlink_to(target)
    path = folder / f"{name}_1.0-1_armhf.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", str(tree), str(path)], check=True, capture_output=True
    )
    return path


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
