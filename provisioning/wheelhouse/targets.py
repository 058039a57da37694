"""The systems that a client is collected for: what their Python, C library and package manager are.

pip evaluates environment markers for the machine it runs on and knows no tags of others, so both stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from provisioning.wheelhouse.errors import WheelhouseError

OLDEST_GLIBC = 17  # manylinux2014; older tags name no Arm


@dataclass(frozen=True, slots=True)
class DebianPackages:
    """What has no wheel for the target and comes from its distribution instead.

    `provides` maps a requirement's name to the package; its version is the distribution's, whatever the
    requirement says. `base` is what every image of the target has: its packages are not collected.
    """

    architecture: str
    provides: Mapping[str, str]
    base: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class System:
    """One operating system on one kind of processor."""

    name: str
    suite: str  # Debian's name of the release
    python: tuple[int, int]
    machine: str  # as `uname -m` says
    glibc: int  # minor version of the C library, 2.x
    debs: DebianPackages | None = None
    limits: Mapping[str, str] = field(default_factory=dict)  # requirement's name: further version bounds

    @property
    def python_version(self) -> str:
        """As "3.13"."""
        return f"{self.python[0]}.{self.python[1]}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """Platform tags of wheels that run there, the newest first."""
        newest_first = range(self.glibc, OLDEST_GLIBC - 1, -1)
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in newest_first]
        return (*tags, f"manylinux2014_{self.machine}", f"linux_{self.machine}")

    @property
    def environment(self) -> dict[str, str]:
        """What environment markers see there (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python_version}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python_version}.0",
            "python_version": self.python_version,
            "sys_platform": "linux",
        }


# numpy, pillow and cffi have no 32-bit Arm wheels. Debian's cryptography is older than the client
# needs; the wheel does, but from 46 on it wants a newer cffi than bookworm's.
BOOKWORM_ARMHF = DebianPackages(
    architecture="armhf",
    provides=MappingProxyType(
        {
            "numpy": "python3-numpy",
            "pillow": "python3-pil",
            "cffi": "python3-cffi-backend",
        }
    ),
    base=("systemd", "python3", "ca-certificates", "perl", "mime-support", "python3-pkg-resources"),
)

SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        system.name: system
        for system in (
            System("bookworm-arm64", "bookworm", (3, 11), "aarch64", 36),
            System(
                "bookworm-armhf",
                "bookworm",
                (3, 11),
                "armv7l",
                36,
                debs=BOOKWORM_ARMHF,
                limits=MappingProxyType({"cryptography": "<46"}),
            ),
            System("trixie-arm64", "trixie", (3, 13), "aarch64", 41),
        )
    }
)


def system(name: str) -> System:
    """The system of that name; `WheelhouseError` for any other."""
    try:
        return SYSTEMS[name]
    except KeyError as exc:
        raise WheelhouseError(f"target {name[:40]!r} is not one of {', '.join(SYSTEMS)}") from exc


def system_of(suite: str, machine: str) -> System:
    """What a machine that says this of itself is; `WheelhouseError` where no client is made for it."""
    for known in SYSTEMS.values():
        if (known.suite, known.machine) == (suite, machine):
            return known
    raise WheelhouseError(
        f"no client is made for {suite or 'an unknown system'} on {machine}: {', '.join(SYSTEMS)} are known"
    )
