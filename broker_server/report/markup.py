"""HTML as a tree of elements, so that text can only ever be text.

Pages are built with `element` and written by the standard library's serialiser, which escapes every
text and attribute; there is no way to put foreign text where markup is expected, and so no template in
which one forgotten filter is a hole.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from broker_server.report.words import printable

Child = ET.Element | str


def element(tag: str, *children: Child, **attributes: str) -> ET.Element:
    """An element; ``class_`` is class, ``aria_label`` is aria-label."""
    made = ET.Element(
        tag, {name.rstrip("_").replace("_", "-"): printable(v) for name, v in attributes.items()}
    )
    for child in children:
        append(made, child)
    return made


def append(parent: ET.Element, child: Child) -> None:
    """Add an element, or text where the last one ended."""
    if isinstance(child, ET.Element):
        parent.append(child)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + printable(child)
    else:
        parent.text = (parent.text or "") + printable(child)


def page(title: str, style: str, body: ET.Element) -> str:
    """A whole document. `style` is ours, never foreign: style sheets are written unescaped."""
    sheet = ET.Element("style")
    sheet.text = style
    root = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            sheet,
        ),
        body,
        lang="en",
    )
    return "<!DOCTYPE html>\n" + ET.tostring(root, encoding="unicode", method="html") + "\n"
