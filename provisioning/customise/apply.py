"""Personalise an image file or a card: look, render, check, write, read back. No root, no mounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioning.card import Card
from provisioning.customise import cloud_init, custom_toml, firstrun, preseed
from provisioning.customise.detect import Format, ImageFacts, check_target, detect
from provisioning.customise.errors import CustomiseError
from provisioning.customise.ext4 import RootPartition
from provisioning.customise.fat import BootPartition
from provisioning.customise.kernel import with_words, words_for
from provisioning.customise.layout import Layout, read_layout
from provisioning.customise.payload import BootFile, Payload, RootEntry
from provisioning.customise.readback import Written, check_written, written_boot, written_root
from provisioning.customise.rendering import Commands, Rendering
from provisioning.customise.settings import by_commands, entries
from provisioning.customise.tools import find_tool, have_tool

OURS = "bramble/"  # the folder on the boot partition by which a personalised image is known


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be written, checked; nothing has been written yet."""

    facts: ImageFacts
    layout: Layout
    boot: tuple[BootFile, ...]
    root: tuple[RootEntry, ...]

    def written(self) -> tuple[Written, ...]:
        """What the target must read as afterwards."""
        return (*map(written_boot, self.boot), *map(written_root, self.root))


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done; `written` can be checked again with `check_written`."""

    format: Format
    evidence: str
    layout: Layout
    written: tuple[Written, ...]


def personalise(
    target: Path, card: Card, payload: Payload, *, instance_id: str, layout: Layout | None = None
) -> Applied:
    """Write `card` and `payload` onto `target`, an image file or a card that holds an image; read it back.

    Args:
        instance_id: of this very card, never used before (`new_instance_id`).
        layout: where the first sector is not on the target yet, the layout that it describes.

    Raises:
        CustomiseError: an unknown image, another system than the card's, no room, a tool that is not
            installed; all of these before anything is written. Or a read-back that differs.
    """
    plan = prepare(target, card, payload, instance_id=instance_id, layout=layout)
    written = plan.written()
    boot = BootPartition(target, plan.layout.boot.offset)
    boot.check(plan.boot)  # before the root file system is written: all or nothing
    if plan.root and plan.layout.root is not None:
        RootPartition(target, plan.layout.root.offset).write(plan.root)
    boot.write(plan.boot)
    check_written(target, written, plan.layout)
    return Applied(plan.facts.format, plan.facts.evidence, plan.layout, written)


def prepare(
    target: Path, card: Card, payload: Payload, *, instance_id: str, layout: Layout | None = None
) -> Plan:
    """All of `personalise` but the writing."""
    layout = layout or read_layout(target)
    check_tools(card)
    boot = BootPartition(target, layout.boot.offset)
    root = _root(target, layout, card)
    facts = detect(boot, root)
    check_target(facts, card.target)
    if OURS in boot.names():
        raise CustomiseError(f"{target} is personalised already: begin with a fresh image")
    settings_files, root_entries, commands = _placed(card, payload)
    rendering = render(facts.format, card, commands, instance_id)
    cmdline = boot.read("cmdline.txt")
    if cmdline is None:
        raise CustomiseError(f"{target}: no cmdline.txt on the boot partition")
    line = with_words(cmdline, (*words_for(card), *rendering.kernel))
    files = (*rendering.files, BootFile("cmdline.txt", line), *settings_files, *payload.boot)
    return Plan(facts, layout, files, root_entries)


def check_tools(card: Card) -> None:
    """Refuse a card for which a program is missing: better before a card is erased than after.

    Raises:
        CustomiseError: naming the Debian package.
    """
    for tool in ("mcopy", "mdir", *(("debugfs",) if card.mode == "prebaked" else ())):
        find_tool(tool)


def render(kind: Format, card: Card, commands: Commands, instance_id: str) -> Rendering:
    """The card in the image's own format."""
    if kind == "cloud-init":
        return cloud_init.render(card, commands, instance_id)
    if kind == "rpi-preseed":
        return preseed.render(card, commands)
    if custom_toml.can_say(card, commands):
        return custom_toml.render(card)
    return firstrun.render(card, commands)


def new_instance_id(card: Card, random_hex: str) -> str:
    """The identifier of this card and no other: cloud-init does its work once for each."""
    return f"{card.name}-{random_hex}"


def _root(target: Path, layout: Layout, card: Card) -> RootPartition | None:
    """The root file system, where it can be read; where the card needs it, it must be."""
    if card.mode == "prebaked" and layout.root is None:
        raise CustomiseError(f"{target} has no ext4 partition; use --mode bundle")
    if layout.root is None or not have_tool("debugfs"):
        return None
    return RootPartition(target, layout.root.offset)


def _placed(card: Card, payload: Payload) -> tuple[Sequence[BootFile], tuple[RootEntry, ...], Commands]:
    """Where the system's settings go: into the root file system, or by way of the boot partition."""
    if card.mode == "prebaked":
        return (), (*entries(card), *payload.root), payload.first_boot
    if payload.root:
        raise CustomiseError("a bundle writes nothing into the root file system; use --mode prebaked")
    files, commands = by_commands(entries(card))
    return files, (), (*commands, *payload.first_boot)
