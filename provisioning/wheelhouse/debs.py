"""Packages of the target's distribution, fetched here with this machine's apt under a state of its own.

Nothing of this machine's package state is read or changed but its sources and keys, which is where the
packages' signatures are checked. What every image has already is found by asking apt twice: once for the base
alone, once for the base and what is wanted; the difference is collected.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from provisioning.wheelhouse.errors import WheelhouseError
from provisioning.wheelhouse.targets import DebianPackages

URI_LINE = re.compile(r"'[^']+' (\S+)_(\S+)_(\S+)\.deb \d+")


def fetch_debs(packages: DebianPackages, names: Sequence[str], folder: Path, state: Path) -> list[Path]:
    """Fetch packages and what they need beyond the base into `folder`; the files.

    Args:
        packages: the target's side.
        names: of the packages that are wanted.
        folder: where the files go; apt leaves alone what is there and right.
        state: folder for apt's lists, kept so that a second run is quick.

    Raises:
        WheelhouseError: apt is missing, knows no such architecture, or cannot reach its archive.
    """
    if shutil.which("apt-get") is None:
        raise WheelhouseError(
            f"packages for {packages.architecture} are fetched with apt-get, which is not here: "
            "make this wheelhouse on Debian or Ubuntu"
        )
    options = _private_state(packages.architecture, state)
    update = _apt([*options, "update"])  # one failing source may not matter: what is missing is named below
    base = _closure(options, packages.base)
    wanted = _closure(options, [*packages.base, *names])
    if not wanted:
        raise WheelhouseError(
            f"apt finds no {names[0]} for {packages.architecture}: {_last_error(update.stderr)}"
        )
    needed = sorted(set(wanted) - set(base))
    done = _apt([*options, "download", *(f"{name}={version}" for name, version in needed)], cwd=folder)
    if done.returncode:
        raise WheelhouseError(f"apt-get download failed: {_last_error(done.stderr)}")
    return [_downloaded(folder, name, version) for name, version in needed]


def version_of(path: Path) -> tuple[str, str]:
    """Name and version of a package's file, as its name says."""
    name, version, _ = path.stem.split("_")
    return name, version.replace("%3a", ":")


def _private_state(architecture: str, state: Path) -> list[str]:
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Dir::State": str(state),
        "Dir::State::lists": str(state / "lists"),
        "Dir::State::status": str(state / "status"),
        "Dir::Cache": str(state / "cache"),
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # or it wants folders that another user can write to
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _closure(options: Sequence[str], names: Sequence[str]) -> list[tuple[str, str]]:
    done = _apt([*options, "install", "--print-uris", "--yes", "--no-install-recommends", *names])
    found = (URI_LINE.match(line) for line in done.stdout.splitlines())
    return [(match[1], match[2].replace("%3a", ":")) for match in found if match]


def _apt(arguments: Sequence[str], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["apt-get", "-q", *arguments], capture_output=True, text=True, check=False, cwd=cwd)


def _downloaded(folder: Path, name: str, version: str) -> Path:
    found = list(folder.glob(f"{name}_{version.replace(':', '%3a')}_*.deb"))
    if len(found) != 1:
        raise WheelhouseError(f"apt-get download left no {shlex.quote(name)} {version}")
    return found[0]


def _last_error(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("E:")]
    return (lines or ["E: no reason given"])[-1][3:][:200]
