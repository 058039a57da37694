"""Which wheels a client needs on a system, found by walking what each of them asks for.

pip can fetch wheels for another system but not find out what they need there: it reads environment markers
for the machine it runs on. So each wheel is fetched alone, and its requirements are read here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from provisioning.wheelhouse.errors import WheelhouseError
from provisioning.wheelhouse.targets import System
from provisioning.wheelhouse.wheels import Wheel

Fetch = Callable[[System, Mapping[str, SpecifierSet], Path], None]
Report = Callable[[str, float], None]
MAX_STEPS = 20  # generations of requirements; a client has three


def resolve(
    own: Wheel,
    system: System,
    folder: Path,
    *,
    extra: str,
    fetch: Fetch,
    report: Report,
    kept: Mapping[str, Wheel] = MappingProxyType({}),
) -> list[Wheel]:
    """Fetch into `folder` every wheel that `own` with that extra needs on `system`.

    The newest wheel that fits all bounds known so far is taken; where a bound that turns up later rules it
    out, it is fetched again under all of them. What is `kept` from an earlier time and fits is not fetched.

    Raises:
        WheelhouseError: a wheel does not exist for the system, or bounds exclude each other.
    """
    chosen = dict(kept)
    for step in range(MAX_STEPS):
        bounds = _walk(own, extra, system, chosen)
        missing = {
            name: bound
            for name, bound in bounds.items()
            if name not in chosen or not bound.contains(chosen[name].version, prereleases=True)
        }
        if not missing:
            return [chosen[name] for name in sorted(bounds)]
        report(f"fetching {', '.join(sorted(missing))}", 0.1 + 0.5 * step / (step + 3))
        chosen |= _fetched(system, missing, folder, fetch)
    raise WheelhouseError(f"requirements of {own.name} have no end after {MAX_STEPS} steps")


def _walk(own: Wheel, extra: str, system: System, chosen: Mapping[str, Wheel]) -> dict[str, SpecifierSet]:
    """Bounds of every name that can be reached from `own` through the wheels chosen so far."""
    bounds: dict[str, SpecifierSet] = {}
    seen: set[tuple[str, str]] = set()
    waiting = own.requirements(system, [extra])
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if system.debs and name in system.debs.provides:
            continue
        bounds[name] = bounds.get(name, SpecifierSet(system.limits.get(name, ""))) & requirement.specifier
        for wanted in {"", *requirement.extras}:
            if name in chosen and (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += chosen[name].requirements(system, [wanted])
    return bounds


def _fetched(
    system: System, missing: Mapping[str, SpecifierSet], folder: Path, fetch: Fetch
) -> dict[str, Wheel]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        fetch(system, missing, Path(scratch))
        wheels = [Wheel.of(path) for path in sorted(Path(scratch).glob("*.whl"))]
        found = {
            wheel.name: Wheel(wheel.path.replace(folder / wheel.path.name), wheel.name, wheel.version)
            for wheel in wheels
        }
    if lacking := sorted(set(missing) - set(found)):
        raise WheelhouseError(f"{lacking[0]} was asked for and did not come")
    return found


def fetch_with_pip(system: System, bounds: Mapping[str, SpecifierSet], folder: Path) -> None:
    """Have pip, as it is set up on this machine, fetch the newest wheels within bounds."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    command += ["--implementation", "cp", "--python-version", system.python_version]
    command += ["--abi", f"cp{system.python[0]}{system.python[1]}", "--abi", "abi3", "--abi", "none"]
    for platform in system.platforms:
        command += ["--platform", platform]
    command += [f"{name}{bound}" for name, bound in sorted(bounds.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (lines or ["ERROR: pip download failed"])[-1].removeprefix("ERROR: ")
        raise WheelhouseError(f"{system.name}: {reason[:300]}; is the package index within reach?")
