"""Figures and foreign text in the form people read, the same in every view."""

from __future__ import annotations

import unicodedata

NOT_MEASURED = "not measured"
_SIZES = ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB"))  # decimal, as networks count


def printable(text: str) -> str:
    """`text` with everything that could steer a terminal or a page's direction shown as U+FFFD.

    Names of classes and files come from other people's folders: an escape sequence, a line break, a
    right-to-left override or a byte that was no UTF-8 must not do anything but be seen.
    """
    return "".join("\ufffd" if _steers(character) else character for character in text)


def _steers(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cf":  # joiners and soft hyphens belong to scripts; direction marks do not
        return unicodedata.bidirectional(character) != "BN"
    return category in ("Cc", "Cs", "Zl", "Zp")


def share(value: float | None) -> str:
    """An accuracy or an area under the curve."""
    return NOT_MEASURED if value is None else f"{value:.3f}"


def loss(value: float | None) -> str:
    """A loss."""
    return NOT_MEASURED if value is None else f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3f}"


def count(value: int | None) -> str:
    """A whole number with a comma every three digits."""
    return NOT_MEASURED if value is None else f"{value:,}"


def size(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return NOT_MEASURED
    for unit, name in _SIZES:
        if value >= 0.9995 * unit:
            return f"{_three_digits(value / unit)} {name}"
    return f"{value:.0f} B"


def times(value: float | None) -> str:
    """A ratio, as "31 times"."""
    return NOT_MEASURED if value is None else f"{_three_digits(value)} times"


def milliseconds(value: float | None) -> str:
    """A latency."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.3f} ms" if value < 0.9995 else f"{_three_digits(value)} ms"


def seconds(value: float | None) -> str:
    """A duration."""
    if value is None:
        return NOT_MEASURED
    if value < 99.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def megabytes(value: float | None) -> str:
    """Memory that is counted in MB."""
    return NOT_MEASURED if value is None else f"{value:.1f} MB"


def yes_no(value: bool | None) -> str:
    """A truth."""
    return NOT_MEASURED if value is None else "yes" if value else "no"


def word(value: str | None) -> str:
    """Foreign text, or that there is none."""
    return printable(value) if value else NOT_MEASURED


def plural(number: int, noun: str) -> str:
    """The number and the noun that fits it."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"
