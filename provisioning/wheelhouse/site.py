"""Wheels and packages unpacked into one folder that Python imports from: no pip runs on the device.

Each file of a wheel is checked against the wheel's own RECORD. Left out is what a device never opens: tests,
headers, type stubs, and the workstation's half of Bramble. Shared libraries of Debian packages lie flat
in ``shared-libraries``, each under the name by which others ask for it.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from provisioning.wheelhouse.errors import WheelhouseError
from provisioning.wheelhouse.wheels import Wheel

LIBRARIES = "shared-libraries"
DEBIAN_PYTHON = PurePosixPath("usr/lib/python3/dist-packages")
LEFT_OUT_FOLDERS = frozenset({"tests", "test", "include", "f2py"})
LEFT_OUT_SUFFIXES = frozenset({".pyi", ".h", ".hpp", ".pxd", ".pyx", ".a", ".lib", ".c", ".cc"})
MAX_FILE_BYTES = 256 << 20


def unpack_wheel(wheel: Wheel, site: Path, *, only: Iterable[str] = ()) -> int:
    """Unpack a wheel; the number of files. With `only`, these top-level packages and no others.

    Raises:
        WheelhouseError: a name leads out of the folder, a file is not what RECORD says, or files collide.
    """
    chosen, count = frozenset(only), 0
    try:
        with zipfile.ZipFile(wheel.path) as archive:
            digests = _recorded(archive)
            for info in archive.infolist():
                place = _place(info.filename)
                if info.is_dir() or place is None or not _wanted(place, chosen):
                    continue
                if info.file_size > MAX_FILE_BYTES:
                    raise WheelhouseError(f"{wheel.path.name}: {info.filename} is too large to be true")
                data = archive.read(info)
                if digests.get(info.filename, "") not in ("", _record_digest(data)):
                    raise WheelhouseError(f"{wheel.path.name}: {info.filename} is not what RECORD says")
                _put(site, place, data)
                count += 1
    except (zipfile.BadZipFile, OSError) as exc:
        raise WheelhouseError(f"{wheel.path.name}: {exc}") from exc
    return count


def unpack_deb(path: Path, site: Path) -> int:
    """Unpack the Python modules and shared libraries of a Debian package; the number of files."""
    unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], capture_output=True, check=False)
    if unpacked.returncode:
        raise WheelhouseError(f"dpkg-deb cannot read {path.name}: remove it and run again")
    with tarfile.open(fileobj=io.BytesIO(unpacked.stdout)) as archive:
        return sum(_put_member(archive, member, site) for member in archive.getmembers())


def compile_site(site: Path, python: Path) -> None:
    """Write bytecode that is taken as it is, without a look at the sources' times."""
    command = [
        str(python),
        "-I",
        "-m",
        "compileall",
        "-q",
        "-j",
        "0",
        "--invalidation-mode",
        "unchecked-hash",
    ]
    command += ["-s", str(site), str(site)]
    subprocess.run(command, capture_output=True, check=False)  # a module for another version does not compile


def find_python(version: str, asked: Path | None = None) -> Path | None:
    """A Python of exactly that version on this machine, to compile with; None without one."""
    candidates = [asked] if asked else [Path(sys.executable), *_installed(version)]
    for candidate in candidates:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([str(candidate), "-I", "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return candidate
    if asked:
        raise WheelhouseError(f"{asked} is not a Python {version}; leave the option out to do without")
    return None


def _installed(version: str) -> Iterator[Path]:
    """Pythons of a version: on PATH, and where version managers keep those that are not."""
    name = f"python{version}"
    if found := shutil.which(name):
        yield Path(found)
    managers = (".pyenv/versions", ".local/share/uv/python")
    for folder in (Path.home() / manager for manager in managers):
        yield from sorted(folder.glob(f"*{version}*/bin/{name}"))


def _recorded(archive: zipfile.ZipFile) -> dict[str, str]:
    record = next((name for name in archive.namelist() if name.endswith(".dist-info/RECORD")), None)
    if record is None:
        raise WheelhouseError(f"{archive.filename} has no RECORD")
    rows = csv.reader(io.StringIO(archive.read(record).decode("utf-8")))
    return {row[0]: row[1] for row in rows if len(row) >= 2}


def _record_digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _place(name: str) -> PurePosixPath | None:
    """Where a file of a wheel goes; None for scripts, headers and data."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise WheelhouseError(f"a wheel holds {name[:80]!r}, which leads out of the folder")
    if path.parts and path.parts[0].endswith(".data"):
        inside = path.parts[1:]
        return PurePosixPath(*inside[1:]) if inside and inside[0] in ("purelib", "platlib") else None
    return path


def _wanted(place: PurePosixPath, only: frozenset[str]) -> bool:
    top = place.parts[0]
    if only and top not in only and not top.endswith(".dist-info"):
        return False
    return not LEFT_OUT_FOLDERS & set(place.parts[1:-1]) and place.suffix not in LEFT_OUT_SUFFIXES


def _put(site: Path, place: PurePosixPath, data: bytes) -> None:
    target = site / place
    if target.exists() and target.read_bytes() != data:
        raise WheelhouseError(f"two wheels hold different files named {place}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _put_member(archive: tarfile.TarFile, member: tarfile.TarInfo, site: Path) -> bool:
    path = PurePosixPath(member.name)
    if ".." in path.parts or not member.isfile():
        return False
    file = archive.extractfile(member)
    data = file.read() if file else b""
    if path.is_relative_to(DEBIAN_PYTHON):
        place = path.relative_to(DEBIAN_PYTHON)
        if not _wanted(place, frozenset()):
            return False
    elif ".so" in path.name and path.suffix != ".py" and _is_library_folder(path.parent):
        place = PurePosixPath(LIBRARIES, _asked_for_as(archive, path))
    else:
        return False
    _put(site, place, data)
    return True


def _is_library_folder(folder: PurePosixPath) -> bool:
    """``lib/TRIPLET``, or where Debian keeps the linear algebra that alternatives choose among."""
    chosen_by_alternatives = folder.name in ("blas", "lapack")
    triplet = folder.parent if chosen_by_alternatives else folder
    return "-linux-gnu" in triplet.name and triplet.parent.name == "lib"


def _asked_for_as(archive: tarfile.TarFile, path: PurePosixPath) -> str:
    """The shortest link to a library with a version in its name; its own name without one."""
    links = [
        PurePosixPath(member.name).name
        for member in archive.getmembers()
        if member.issym() and PurePosixPath(member.linkname).name == path.name
    ]
    versioned = [name for name in links if ".so." in name]
    return min([*versioned, path.name], key=len) if versioned else path.name
