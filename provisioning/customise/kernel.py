"""The kernel's command line, ``cmdline.txt``: one line of words."""

from __future__ import annotations

from collections.abc import Iterable

from provisioning.card import Card
from provisioning.customise.errors import CustomiseError

MAX_BYTES = 1024  # what the Pi's firmware leaves room for, its own additions counted


def words_for(card: Card) -> tuple[str, ...]:
    """What every card needs, whatever the image's format."""
    words = ["cgroup_enable=memory"]  # the firmware turns it off, and a service's memory limit with it
    if card.card_sparing:
        words.append("rootflags=noatime")  # stands until fstab says otherwise; remounting keeps it
    if card.wifi is not None:
        words.append(f"cfg80211.ieee80211_regdom={card.wifi.country}")
    return tuple(words)


def with_words(cmdline: bytes, words: Iterable[str]) -> bytes:
    """The line with `words` at its end. Of a word ``key=...`` that was there under the same key the new
    one remains; ``rootflags`` that an image brings stay, because they are its own needs."""
    text = cmdline.decode("ascii", "replace")
    if "\ufffd" in text or len(text.split("\n")) > 2 or (text.count("\n") and not text.endswith("\n")):
        raise CustomiseError("cmdline.txt of the image is not one line of ASCII text")
    old, new = text.split(), list(words)
    keys = {_key(word) for word in new}
    if any(_key(word) == "rootflags" for word in old):
        new = [word for word in new if _key(word) != "rootflags"]
        keys.discard("rootflags")
    line = " ".join([*(word for word in old if _key(word) not in keys), *new]) + "\n"
    if len(line) > MAX_BYTES:
        raise CustomiseError(f"cmdline.txt would have {len(line)} bytes; the firmware takes {MAX_BYTES}")
    return line.encode("ascii")


def _key(word: str) -> str:
    """What makes two words rivals. ``cgroup_enable`` may stand twice, once for each controller."""
    key, equals, _ = word.partition("=")
    return word if not equals or key in {"cgroup_enable", "console"} else key
