"""The system's own settings that a card carries: the watchdog, and what spares the card writes.

Where the root file system is written they are simply files of it. Where only the boot partition is,
they lie there and are put in place by commands at first boot.
"""

from __future__ import annotations

from collections.abc import Sequence

from provisioning.card import Card
from provisioning.customise.payload import BOOT_MOUNT, BootFile, RootEntry, RootFile, RootLink, content_bytes

UNITS = "/etc/systemd/system"
TEMPORARY_MOUNT = "tmp.mount"  # a mount unit is named after its place

WATCHDOG = b"""\
[Manager]
RuntimeWatchdogSec=1min
RebootWatchdogSec=2min
"""
JOURNAL = b"""\
# In memory: a journal on the card is the steadiest writer there is.
[Journal]
Storage=volatile
RuntimeMaxUse=32M
"""
TEMPORARY = b"""\
[Unit]
Description=Temporary files in memory
ConditionPathIsSymbolicLink=!/tmp
DefaultDependencies=no
Conflicts=umount.target
Before=local-fs.target umount.target
After=swap.target

[Mount]
What=tmpfs
Where=/tmp
Type=tmpfs
Options=mode=1777,strictatime,nosuid,nodev,size=25%

[Install]
WantedBy=local-fs.target
"""
SWAP = b"""\
# Compressed memory and no file on the card.
[Main]
Mechanism=zram
"""


def entries(card: Card) -> tuple[RootEntry, ...]:
    """Files and links for `card`. Those for a program that an image lacks do nothing."""
    found: list[RootEntry] = []
    if card.watchdog:
        found.append(RootFile("/etc/systemd/system.conf.d/50-bramble-watchdog.conf", WATCHDOG))
    if card.card_sparing:
        found += [
            RootFile("/etc/systemd/journald.conf.d/50-bramble.conf", JOURNAL),
            RootFile(f"{UNITS}/{TEMPORARY_MOUNT}", TEMPORARY),
            RootLink(f"{UNITS}/local-fs.target.wants/{TEMPORARY_MOUNT}", f"{UNITS}/{TEMPORARY_MOUNT}"),
            RootFile("/etc/rpi/swap.conf.d/50-bramble.conf", SWAP),  # trixie
            RootLink(f"{UNITS}/dphys-swapfile.service", "/dev/null"),  # bookworm
        ]
    return tuple(found)


def by_commands(wanted: Sequence[RootEntry]) -> tuple[tuple[BootFile, ...], tuple[tuple[str, ...], ...]]:
    """The same as files of the boot partition, and the commands that put them in place."""
    files: list[BootFile] = []
    commands: list[tuple[str, ...]] = []
    for number, entry in enumerate(wanted):
        if isinstance(entry, RootFile):
            file = BootFile(f"bramble/system/{number:02}.conf", content_bytes(entry.content))
            files.append(file)
            source = str(BOOT_MOUNT / file.path)
            commands.append(("install", "-D", "-m", f"{entry.mode:04o}", source, entry.path))
        elif isinstance(entry, RootLink):
            commands.append(("mkdir", "-p", entry.path.rpartition("/")[0]))
            commands.append(("ln", "-sfn", entry.target, entry.path))
    return tuple(files), tuple(commands)
