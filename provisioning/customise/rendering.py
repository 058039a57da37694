"""What one format makes of a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from provisioning.card import Card
from provisioning.customise.payload import BootFile

Commands = Sequence[tuple[str, ...]]  # argument lists, run as root at first boot


@dataclass(frozen=True, slots=True)
class Rendering:
    """Files of the boot partition, and words for the kernel's command line."""

    files: tuple[BootFile, ...]
    kernel: tuple[str, ...] = ()


def wants_ssh(card: Card) -> bool:
    """Whether anybody could log in over the network at all."""
    return bool(card.ssh_keys) or card.password_hash is not None


def ssh_by_password(card: Card) -> bool:
    """A password opens SSH only where there is no key: one is guessed by machines all day, the other not."""
    return card.password_hash is not None and not card.ssh_keys


def sudo_without_password(card: Card) -> bool:
    """Who has no password cannot type it; who has one must."""
    return card.password_hash is None
