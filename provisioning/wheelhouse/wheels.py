"""What a wheel says of itself: name, version, and what it needs on a given system."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from provisioning.wheelhouse.errors import WheelhouseError
from provisioning.wheelhouse.targets import System

MAX_METADATA_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel on this machine."""

    path: Path
    name: str  # canonical, as "paho-mqtt"
    version: str

    @classmethod
    def of(cls, path: Path) -> Wheel:
        """The wheel in a file, by its name."""
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except InvalidWheelFilename as exc:
            raise WheelhouseError(f"{path} is not named as a wheel is: {exc}") from exc
        return cls(path, canonicalize_name(name), str(version))

    def requirements(self, system: System, extras: Iterable[str] = ()) -> list[Requirement]:
        """What has to be there beside it on `system`, with those extras."""
        lines = message_from_bytes(read_metadata(self.path)).get_all("Requires-Dist") or []
        environments = [system.environment | {"extra": extra} for extra in ("", *extras)]
        try:
            found = [Requirement(str(line)) for line in lines]
        except InvalidRequirement as exc:
            raise WheelhouseError(f"{self.path.name}: {exc}") from exc
        return [
            requirement
            for requirement in found
            if requirement.marker is None
            or any(requirement.marker.evaluate(environment) for environment in environments)
        ]


def read_metadata(path: Path) -> bytes:
    """The wheel's METADATA."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            if len(names) != 1 or archive.getinfo(names[0]).file_size > MAX_METADATA_BYTES:
                raise WheelhouseError(f"{path} has no METADATA that can be read: fetch it again")
            return archive.read(names[0])
    except (zipfile.BadZipFile, OSError) as exc:
        raise WheelhouseError(f"{path} is damaged ({exc}): remove it and run again") from exc
