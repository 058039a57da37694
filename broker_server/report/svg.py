"""A matplotlib figure as an SVG element for the page.

Figures are drawn in stand-in colours, which are replaced here by the style sheet's custom properties, so
one drawing is right in light, in dark and on paper. Metadata, the foreign document type, the drawing's
own style sheet and unused identifiers go: the page points nowhere, and two figures cannot clash.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.figure import Figure

from broker_server.report.style import LIGHT

COLOURS: Mapping[str, str] = {name: f"#{index + 1:02x}c0de" for index, name in enumerate(LIGHT)}  # stand-ins

_NAMES = {colour: name for name, colour in COLOURS.items()}
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT_FAMILY = re.compile(r"font-family:[^;]*;? ?")
_HREF = "{http://www.w3.org/1999/xlink}href"
_DROPPED = ("metadata", "style")
_SETTINGS: Mapping[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "svg.hashsalt": "bramble",  # the same report gives the same page
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 11,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["quiet"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["quiet"],
    "ytick.color": COLOURS["quiet"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
}


@contextmanager
def drawing() -> Iterator[None]:
    """The settings under which figures are made; drawing and `to_svg` happen inside."""
    with mpl.rc_context(rc=dict(_SETTINGS)):
        yield


def to_svg(figure: Figure, *, prefix: str, label: str) -> ET.Element:
    """The figure as an element without width and height; `prefix` keeps its identifiers its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - written by matplotlib a moment ago
    _clean(root, prefix)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return root


def _clean(root: ET.Element, prefix: str) -> None:
    used = set(_references(root))
    for node in root.iter():
        for child in [child for child in node if _local(child.tag) in _DROPPED]:
            node.remove(child)
        node.tag = _local(node.tag)
        node.tail = None
        if node.tag != "text":
            node.text = None
        if href := node.attrib.pop(_HREF, None):
            node.attrib["href"] = f"#{prefix}-{href.lstrip('#')}"
        if (own := node.attrib.pop("id", None)) in used:
            node.attrib["id"] = f"{prefix}-{own}"
        for name in ("clip-path", "style", "d"):
            if value := node.attrib.get(name):
                node.attrib[name] = _rewritten(value, prefix)


def _references(root: ET.Element) -> Iterator[str]:
    for node in root.iter():
        for value in node.attrib.values():
            yield from _REFERENCE.findall(value)
            if value.startswith("#"):
                yield value[1:]


def _rewritten(value: str, prefix: str) -> str:
    value = _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
    value = _COLOUR.sub(lambda match: f"var(--{_NAMES[match[0]]})", value)
    return " ".join(_FONT_FAMILY.sub("", value).split())


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
