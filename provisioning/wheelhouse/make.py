"""A wheelhouse: every file that a client needs on one system, checked, and unpacked for the device.

::

    wheelhouse.json   the lock: each file with its SHA-256
    wheel/            the wheels, Bramble's own among them
    deb/              packages of the distribution, where there is no wheel
    site/             all of it unpacked, as Python imports it
    client.tar.gz     the same as one file, for the boot partition and for upgrades

A second run with nothing new touches nothing and needs no network.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioning.wheelhouse.archive import ARCHIVE_FILE, SITE, Client, is_unpacked, write_archive
from provisioning.wheelhouse.debs import fetch_debs, version_of
from provisioning.wheelhouse.errors import WheelhouseError
from provisioning.wheelhouse.lock import (
    Item,
    Lock,
    damaged,
    file_sha256,
    item_of,
    read_lock,
    write_lock,
)
from provisioning.wheelhouse.own import DEVICE_PACKAGES, build_own_wheel, source_digest
from provisioning.wheelhouse.resolve import Fetch, Report, fetch_with_pip, resolve
from provisioning.wheelhouse.site import compile_site, find_python, unpack_deb, unpack_wheel
from provisioning.wheelhouse.targets import System
from provisioning.wheelhouse.wheels import Wheel

EXTRA = "edge"
ENTRY_POINT = Path("edge_client") / "cli.py"  # what the launcher starts


@dataclass(frozen=True, slots=True)
class Wheelhouse:
    """A wheelhouse on this machine; `changed` is False where there was nothing to do."""

    folder: Path
    lock: Lock
    changed: bool

    @property
    def archive(self) -> Path:
        """The client as one file."""
        return self.folder / ARCHIVE_FILE

    @property
    def site(self) -> Path:
        """The client unpacked."""
        return self.folder / SITE

    @property
    def client(self) -> Client:
        """What the site tree is."""
        lock = self.lock
        return Client(lock.client, lock.build, lock.target, lock.python, lock.bytecode)


def make_wheelhouse(
    system: System,
    folder: Path,
    *,
    bramble_wheel: Path | None = None,
    python: Path | None = None,
    refresh: bool = False,
    report: Report = lambda _what, _share: None,
    fetch: Fetch = fetch_with_pip,
    now: float | None = None,
) -> Wheelhouse:
    """Collect, check and unpack a client for `system` into `folder`.

    Args:
        system: the target.
        folder: made if need be; one of another target is refused.
        bramble_wheel: the client's own wheel; built from the sources without it.
        python: of the target's version, to compile bytecode; without it one on PATH, else the device does.
        refresh: look for newer wheels even where nothing is missing.
        report: called with what is being done and the share done.
        fetch: gets wheels; pip by default.
        now: seconds since 1970.

    Raises:
        WheelhouseError: something cannot be had for the target, or the folder is of another one.
    """
    compiler = find_python(system.python_version, python)
    source = file_sha256(bramble_wheel) if bramble_wheel else source_digest()
    held = _held(folder, system)
    same = held and held.source == source and held.distribution == _from_distribution(system)
    if held and same and not refresh and not (compiler and not held.bytecode):
        report("checking hashes", 0.5)
        if not damaged(folder, held) and _is_whole(folder, held):
            return Wheelhouse(folder, held, changed=False)
    wheels, debs = _collect(system, folder, bramble_wheel, held, refresh, fetch, report)
    report("unpacking", 0.8)
    _unpack(folder, wheels, debs, compiler)
    report("packing", 0.9)
    build = max(int(now or time.time()), 0 if held is None else held.build + 1)  # also twice in one second
    return _finish(system, folder, wheels, debs, source, compiler is not None, build)


def open_wheelhouse(folder: Path) -> Wheelhouse:
    """A wheelhouse that was made before; `WheelhouseError` unless archive and site tree are as locked."""
    lock = read_lock(folder)
    if not _is_whole(folder, lock):
        raise WheelhouseError(
            f"{folder} is damaged; mend it: bramble-provision wheelhouse --target {lock.target} "
            f"--out {folder}"
        )
    return Wheelhouse(folder, lock, changed=False)


def _held(folder: Path, system: System) -> Lock | None:
    try:
        lock = read_lock(folder)
    except WheelhouseError:  # none yet, damaged, or of another version of this program: made anew
        return None
    if lock.target != system.name:
        raise WheelhouseError(f"{folder} is a wheelhouse for {lock.target}; choose another folder")
    return lock


def _is_whole(folder: Path, lock: Lock) -> bool:
    path = folder / ARCHIVE_FILE
    return path.is_file() and file_sha256(path) == lock.archive and is_unpacked(path, folder / SITE)


def _collect(
    system: System,
    folder: Path,
    bramble_wheel: Path | None,
    held: Lock | None,
    refresh: bool,
    fetch: Fetch,
    report: Report,
) -> tuple[list[Wheel], list[Path]]:
    wheel_folder, deb_folder = folder / "wheel", folder / "deb"
    wheel_folder.mkdir(parents=True, exist_ok=True)
    report("building Bramble's own wheel", 0.0)
    own = _own(wheel_folder, bramble_wheel)
    kept = {} if refresh or held is None else _kept(folder, held)
    report("looking for what it needs", 0.1)
    others = resolve(own, system, wheel_folder, extra=EXTRA, fetch=fetch, report=report, kept=kept)
    debs = _debs(system, deb_folder, held, refresh, report)
    used = {path.name for path in (own.path, *(wheel.path for wheel in others), *debs)}
    for path in (*wheel_folder.glob("*.whl"), *deb_folder.glob("*.deb")):
        if path.name not in used:
            path.unlink()
    return [own, *others], debs


def _own(wheel_folder: Path, given: Path | None) -> Wheel:
    if given is None:
        return build_own_wheel(wheel_folder)
    return Wheel.of(Path(shutil.copy(given, wheel_folder / given.name)))


def _kept(folder: Path, held: Lock) -> dict[str, Wheel]:
    """Wheels of the last time that are still what the lock says."""
    bad = set(damaged(folder, held))
    wheels = (
        Wheel.of(folder / "wheel" / item.file) for item in held.of_kind("wheel") if item.file not in bad
    )
    return {wheel.name: wheel for wheel in wheels}


def _debs(system: System, folder: Path, held: Lock | None, refresh: bool, report: Report) -> list[Path]:
    if system.debs is None:
        return []
    folder.mkdir(exist_ok=True)
    names = _from_distribution(system)
    same = held is not None and not refresh and held.distribution == names
    if held and same and not set(damaged(folder.parent, held)) & {i.file for i in held.of_kind("deb")}:
        return [folder / item.file for item in held.of_kind("deb")]
    report(f"fetching packages for {system.debs.architecture}", 0.6)
    return fetch_debs(system.debs, names, folder, folder.parent / ".apt")


def _from_distribution(system: System) -> tuple[str, ...]:
    return tuple(sorted(set(system.debs.provides.values()))) if system.debs else ()


def _unpack(folder: Path, wheels: Sequence[Wheel], debs: Sequence[Path], compiler: Path | None) -> None:
    fresh = folder / ".site.new"
    shutil.rmtree(fresh, ignore_errors=True)
    for wheel in wheels:
        unpack_wheel(wheel, fresh, only=DEVICE_PACKAGES if wheel is wheels[0] else ())
    for deb in debs:
        unpack_deb(deb, fresh)
    if not (fresh / ENTRY_POINT).is_file():
        raise WheelhouseError(f"{wheels[0].path.name} holds no {ENTRY_POINT}: it is not Bramble's wheel")
    if compiler:
        compile_site(fresh, compiler)
    shutil.rmtree(folder / SITE, ignore_errors=True)
    fresh.replace(folder / SITE)


def _finish(
    system: System,
    folder: Path,
    wheels: Sequence[Wheel],
    debs: Sequence[Path],
    source: str,
    bytecode: bool,
    build: int,
) -> Wheelhouse:
    client = Client(wheels[0].version, build, system.name, system.python_version, bytecode)
    write_archive(client, folder / SITE, folder / ARCHIVE_FILE)
    lock = Lock(
        target=client.target,
        python=client.python,
        client=client.version,
        build=client.build,
        source=source,
        bytecode=bytecode,
        archive=file_sha256(folder / ARCHIVE_FILE),
        items=_items(wheels, debs),
        distribution=_from_distribution(system),
    )
    write_lock(folder, lock)
    return Wheelhouse(folder, lock, changed=True)


def _items(wheels: Sequence[Wheel], debs: Sequence[Path]) -> tuple[Item, ...]:
    from_wheels = [item_of(wheel.path, "wheel", wheel.name, wheel.version) for wheel in wheels]
    return (*from_wheels, *(item_of(path, "deb", *version_of(path)) for path in debs))
