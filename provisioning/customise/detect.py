"""Which first-boot format an image reads. The wrong one is ignored in silence, so nobody guesses here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from provisioning.card import Target
from provisioning.customise.errors import CustomiseError
from provisioning.customise.ext4 import RootPartition
from provisioning.customise.fat import BootPartition

Format = Literal["cloud-init", "firstboot", "rpi-preseed"]
# firstboot: raspberrypi-sys-mods, which takes custom.toml or firstrun.sh

FIRSTBOOT_WORD = "init=/usr/lib/raspberrypi-sys-mods/firstboot"
SEED = ("user-data", "meta-data")
PROGRAMS: tuple[tuple[str, Format], ...] = (
    ("/usr/bin/rpi-preseed", "rpi-preseed"),
    ("/usr/bin/cloud-init", "cloud-init"),
    ("/usr/lib/raspberrypi-sys-mods/imager_custom", "firstboot"),
)
LOADERS = (("/usr/lib/ld-linux-aarch64.so.1", "arm64"), ("/usr/lib/ld-linux-armhf.so.3", "armhf"))


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image says about itself; None where it could not be looked up."""

    format: Format
    evidence: str
    codename: str | None = None  # Debian's, as "trixie"
    architecture: str | None = None


def detect(boot: BootPartition, root: RootPartition | None) -> ImageFacts:
    """Look at the boot partition, then (where it can be read) into the root file system.

    Raises:
        CustomiseError: nothing known was found; the message says what was looked for.
    """
    found = _from_boot(boot)
    if found is None and root is not None:
        found = _from_root(root)
    if found is None:
        looked = f"{FIRSTBOOT_WORD} in cmdline.txt; {', '.join(SEED)} on the boot partition"
        programs = ", ".join(path for path, _ in PROGRAMS)
        inside = f"; {programs}" if root is not None else " (the root file system was not looked into)"
        raise CustomiseError(
            f"the image reads no first-boot format that is known: looked for {looked}{inside}"
        )
    known, evidence = found
    codename, architecture = _system(root) if root is not None else (None, None)
    return ImageFacts(known, evidence, codename, architecture)


def check_target(facts: ImageFacts, target: Target) -> None:
    """Refuse a card for another system than the image holds: its wheels would not load."""
    codename, _, architecture = target.partition("-")
    for wanted, has in ((codename, facts.codename), (architecture, facts.architecture)):
        if has is not None and has != wanted:
            raise CustomiseError(f"the card is for {target}, the image is {has}: choose another of the two")


def _from_boot(boot: BootPartition) -> tuple[Format, str] | None:
    words = (boot.read("cmdline.txt") or b"").decode("ascii", "replace").split()
    if FIRSTBOOT_WORD in words:
        return "firstboot", f"cmdline.txt has {FIRSTBOOT_WORD}"
    names = boot.names()
    if all(name in names for name in SEED):
        return "cloud-init", "user-data and meta-data are on the boot partition"
    return None


def _from_root(root: RootPartition) -> tuple[Format, str] | None:
    for (path, known), found in zip(PROGRAMS, root.stat([path for path, _ in PROGRAMS]), strict=True):
        if found is not None:
            return known, f"{path} is in the root file system"
    return None


def _system(root: RootPartition) -> tuple[str | None, str | None]:
    release = (root.read("/usr/lib/os-release") or b"").decode("utf-8", "replace")
    values = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    loaders = root.stat([path for path, _ in LOADERS])
    present = [name for (_, name), found in zip(LOADERS, loaders, strict=True) if found is not None]
    codename = values.get("VERSION_CODENAME", "").strip('"')
    return codename or None, present[0] if len(present) == 1 else None
