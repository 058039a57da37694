"""docs/wire.md says what the code does: every message, field, bound, topic and timer, and one frame."""

from __future__ import annotations

import dataclasses
import importlib
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from compression.records import Constraint, Length, Matches, Record
from edge_client.wire import topics
from edge_client.wire.fields import Message
from edge_client.wire.frame import decode, encode
from edge_client.wire.messages import MESSAGE_TYPES, TYPE_NUMBERS
from edge_client.wire.presence import Presence

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
PACKAGES = "edge_client|broker_server|compression"
CONSTANT = re.compile(rf"^\| `((?:{PACKAGES})\.[\w.]+)` \| ([^|]+) \|", re.MULTILINE)
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)


# ---- what the code says ----


def nested(kind: Any) -> set[type[Record]]:
    """The records that a type mentions."""
    if isinstance(kind, type) and issubclass(kind, Record):
        return {kind}
    return {found for part in get_args(kind) for found in nested(part)}


def hints(cls: type[Record]) -> Mapping[str, Any]:
    found = get_type_hints(cls, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def every_record() -> dict[str, type[Record]]:
    """All messages, and all records that they hold at any depth."""
    waiting: set[type[Record]] = set(MESSAGE_TYPES.values())
    found: dict[str, type[Record]] = {}
    while waiting:
        cls = waiting.pop()
        found[cls.__name__] = cls
        inner = {record for kind in hints(cls).values() for record in nested(kind)}
        waiting |= {record for record in inner if record.__name__ not in found}
    return dict(sorted(found.items()))  # sets have none: processes that share the tests compare


def number(value: float) -> str:
    """As people write it: 2^40, 1e15, 4,096."""
    whole = int(value)
    if whole == value and whole >= 1 << 16 and whole & (whole - 1) == 0:
        return f"2^{whole.bit_length() - 1}"
    if whole == value and abs(whole) < 1_000_000:
        return f"{whole:,}"
    return f"{value:g}".replace("e+", "e")


def bound(constraint: Constraint) -> str:
    if isinstance(constraint, Matches):
        return f"`{constraint.pattern}`"
    text = f"{number(constraint.low)} to {number(constraint.high)}"
    return f"{text} long" if isinstance(constraint, Length) else text


def described(kind: Any) -> str:
    """A field's type in the words of the document."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return ", ".join([described(args[0]), *map(bound, args[1:])])
    if origin in (Union, types.UnionType):
        return " or ".join(described(part) for part in args)
    if origin is Literal:
        return ", ".join(f'"{option}"' for option in args)
    if origin is tuple:
        return f"list of ({described(args[0])})"
    if origin in (dict, Mapping):
        return f"map of ({described(args[0])}) to ({described(args[1])})"
    plain = {bool: "bool", int: "int", float: "float", str: "text", type(None): "null"}
    return plain.get(kind) or str(kind.__name__)


# ---- what the document says ----


def section(name: str) -> str:
    """The text under a record's heading, up to the next heading."""
    match = re.search(rf"^#+ {name}\b[^\n]*\n(.*?)(?=^#|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert match is not None, f"docs/wire.md has no section on {name}"
    return match[1]


@pytest.mark.parametrize("cls", MESSAGE_TYPES.values(), ids=lambda cls: cls.__name__)
def test_every_message_has_its_heading(cls: type[Message]) -> None:
    extras = ("" if cls.SIGNED else "not ") + "signed, " + ("may have a" if cls.HAS_BODY else "no") + " body"
    assert f"### {cls.__name__}: type {TYPE_NUMBERS[cls]}, {extras}\n" in DOCUMENT


@pytest.mark.parametrize("cls", every_record().values(), ids=lambda cls: cls.__name__)
def test_every_field_is_there_with_its_bounds(cls: type[Record]) -> None:
    rows = {name: holds.strip() for name, holds, _ in ROW.findall(section(cls.__name__))}
    assert rows == {name: described(kind) for name, kind in hints(cls).items()}


def test_no_message_is_described_that_does_not_exist() -> None:
    described_there = set(re.findall(r"^### (\w+): type", DOCUMENT, re.MULTILINE))
    assert described_there == {cls.__name__ for cls in MESSAGE_TYPES.values()}


def test_every_constant_has_the_value_that_the_code_has() -> None:
    found = CONSTANT.findall(DOCUMENT)
    assert len(found) >= 20
    for path, shown in found:
        module, _, name = path.rpartition(".")
        value = getattr(importlib.import_module(module), name)
        assert number(value) == shown.strip().removesuffix(" s").removesuffix(" bytes"), path


def test_every_topic_is_there() -> None:
    listed = re.findall(r"^\| `(bramble/1/<fleet>/[^`]+)` \|", DOCUMENT, re.MULTILINE)
    in_the_code = re.findall(r"^    (bramble/1/<fleet>/\S+)", topics.__doc__ or "", re.MULTILINE)
    assert len(in_the_code) == 8
    assert listed == in_the_code


def test_the_frame_in_the_document_is_a_frame() -> None:
    dump = re.search(r"^```hex\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert dump is not None
    frame = bytes.fromhex("".join(line.partition("  ")[0] for line in dump[1].splitlines()))
    message = Presence(state="online", session="00112233445566aa")
    assert decode(frame).message == message
    assert encode(message) == frame
