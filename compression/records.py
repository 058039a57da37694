"""Frozen records with declared bounds, and their canonical JSON.

Everything that crosses the network, is kept on a device or is read from a settings file is a
dataclass deriving from `Record`. Its annotations say what each field may hold; building one checks
them, so nothing downstream checks again::

    @dataclass(frozen=True, slots=True)
    class Grant(Record):
        device: Annotated[str, Matches(r"[A-Za-z0-9_-]{1,64}")]
        window: Annotated[int, Between(1, 16)]

`dumps` writes one canonical form (UTF-8, keys sorted, no blanks, no NaN) and `loads` takes that form
only, so equal records have equal bytes and can be signed or hashed.

Why not a library: msgspec has no wheel for 32-bit Arm and pydantic costs 15 to 20 MB of memory, a
fifth of what a device may use; dacite and cattrs take ``True`` for an int and ``"5"`` for 5.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, ClassVar, TypeVar, cast, get_args, get_origin, get_type_hints

from compression.errors import BrambleError
from compression.field_checks import (
    SHOWN_CHARACTERS,
    Between,
    Checker,
    Constraint,
    Length,
    Matches,
    checker,
    is_union,
    shown,
)

__all__ = [
    "Between",
    "Constraint",
    "Json",
    "Length",
    "Matches",
    "Record",
    "RecordError",
    "dumps",
    "from_plain",
    "loads",
    "to_plain",
]

Json = Any  # what json.loads returns: None, bool, int, float, str, list, dict
R = TypeVar("R", bound="Record")
Builder = Callable[[Json, str], Any]  # from JSON, and where it stands, to a field's value

_SCALARS = frozenset((str, int, float, bool))
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class RecordError(BrambleError, ValueError):
    """A value does not fit its record; the message names the field, the value and the rule."""


class Record:
    """Base of frozen, slotted dataclasses whose fields are checked when they are built.

    Fields may be bool, int, float (finite), str, a `Literal`, another record, ``tuple[X, ...]``,
    ``Mapping[str, X]``, ``X | None``, a union of records that each set `TAG`, and any of these in
    `Annotated` with `Between`, `Matches` or `Length`.
    """

    __slots__ = ()
    TAG: ClassVar[str] = ""  # set where a field may hold one of several records ...
    TAG_KEY: ClassVar[str] = "type"  # ... and the JSON key under which it stands

    def __post_init__(self) -> None:
        for name, check in _plan(type(self)).checks:
            if (problem := check(getattr(self, name))) is not None:
                raise RecordError(f"{type(self).__name__}.{name}{problem}")


def to_plain(value: Any) -> Json:
    """The record as dicts, lists and scalars, ready for JSON."""
    if value is None or type(value) in _SCALARS:
        return value
    if isinstance(value, Record):
        plain = {value.TAG_KEY: value.TAG} if value.TAG else {}
        for name in _hints(type(value)):
            item = getattr(value, name)  # most are scalars, for which a call would take longest
            plain[name] = item if item is None or type(item) in _SCALARS else to_plain(item)
        return plain
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def from_plain(cls: type[R], plain: Json, where: str = "") -> R:
    """Build `cls` from dicts, lists and scalars.

    Raises:
        RecordError: an unknown or missing key, a wrong type, or a value out of bounds.
    """
    where = where or cls.__name__
    if not isinstance(plain, dict):
        raise RecordError(f"{where}: expected a table, got {shown(plain)}")
    given = dict(plain)
    if cls.TAG and (tag := given.pop(cls.TAG_KEY, None)) != cls.TAG:
        raise RecordError(f"{where}: expected {cls.TAG_KEY} {cls.TAG!r}, got {shown(tag)}")
    plan = _plan(cls)
    if unknown := sorted(key for key in given if key not in plan.builders):
        raise RecordError(f"{where}: unknown key {shown(unknown[0])}; known are {', '.join(plan.builders)}")
    for name in plan.required:
        if name not in given:
            raise RecordError(f"{where}: {name} is missing")
    for name, item in given.items():
        if (build := plan.builders[name]) is not None:
            given[name] = build(item, f"{where}.{name}")
    return cls(**given)


def dumps(record: Record) -> bytes:
    """The canonical JSON of a record, UTF-8."""
    return _CANONICAL.encode(to_plain(record)).encode("utf-8", "strict")


def loads(cls: type[R], data: bytes, *, max_bytes: int) -> R:
    """Parse canonical JSON.

    Raises:
        RecordError: too long, not JSON, not `cls`, or not in canonical form.
    """
    if len(data) > max_bytes:
        raise RecordError(f"{cls.__name__}: {len(data)} bytes exceed the limit of {max_bytes}")
    try:
        plain = json.loads(data.decode("utf-8", "strict"))
        record = from_plain(cls, plain)
        canonical = dumps(record)
    except RecordError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as exc:
        raise RecordError(f"{cls.__name__}: not valid JSON: {str(exc)[:SHOWN_CHARACTERS]}") from exc
    if canonical != data:
        raise RecordError(f"{cls.__name__}: JSON is not in canonical form")
    return record


_HINTS: dict[type, Mapping[str, Any]] = {}  # resolving annotations is slow: once a class


def _hints(cls: type[Record]) -> Mapping[str, Any]:
    if cls not in _HINTS:
        hints = get_type_hints(cls, include_extras=True)
        _HINTS[cls] = {field.name: hints[field.name] for field in fields(cast(Any, cls))}
    return _HINTS[cls]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a class's annotations come to: how its fields are checked, and how they are built from JSON."""

    checks: tuple[tuple[str, Checker], ...]
    builders: Mapping[str, Builder | None]  # None: as JSON has it
    required: tuple[str, ...]


_PLANS: dict[type, _Plan] = {}  # reading annotations is slow: once a class


def _plan(cls: type[Record]) -> _Plan:
    if (known := _PLANS.get(cls)) is not None:
        return known
    hints = _hints(cls)
    return _PLANS.setdefault(
        cls,
        _Plan(
            checks=tuple((name, checker(kind)) for name, kind in hints.items()),
            builders={name: _builder(kind) for name, kind in hints.items()},
            required=tuple(
                field.name
                for field in fields(cast(Any, cls))
                if field.default is MISSING and field.default_factory is MISSING
            ),
        ),
    )


def _builder(kind: Any) -> Builder | None:
    """What turns JSON's lists and dicts into the tuples and records that `kind` asks for."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _builder(args[0])
    if is_union(kind):
        return _build_option(args)
    if origin is tuple:
        return _build_items(_builder(args[0]))
    if origin in (dict, Mapping):
        return _build_mapping(_builder(args[1]))
    if isinstance(kind, type) and issubclass(kind, Record):
        return lambda plain, where: from_plain(kind, plain, where)
    if kind is float:
        return lambda plain, _where: float(plain) if type(plain) is int else plain
    return None


def _build_option(args: tuple[Any, ...]) -> Builder | None:
    options = [option for option in args if option is not type(None)]
    if len(options) == 1:
        inner = _builder(options[0])
        return inner and (lambda plain, where: None if plain is None else inner(plain, where))
    return lambda plain, where: (
        None if plain is None else from_plain(_chosen(options, plain, where), plain, where)
    )


def _build_items(inner: Builder | None) -> Builder:
    def build(plain: Json, where: str) -> Any:
        if not isinstance(plain, list):
            return plain
        if inner is None:
            return tuple(plain)
        return tuple(inner(item, f"{where}[{index}]") for index, item in enumerate(plain))

    return build


def _build_mapping(inner: Builder | None) -> Builder:
    def build(plain: Json, where: str) -> Any:
        if not isinstance(plain, dict):
            return plain
        if inner is None:
            return dict(plain)
        return {key: inner(item, f"{where}.{key}") for key, item in plain.items()}

    return build


def _chosen(options: Sequence[Any], plain: Json, where: str) -> type[Record]:
    key = next((option.TAG_KEY for option in options if hasattr(option, "TAG_KEY")), "type")
    tag = plain.get(key) if isinstance(plain, dict) else None
    for option in options:
        if isinstance(option, type) and issubclass(option, Record) and tag == option.TAG:
            return option
    known = ", ".join(getattr(option, "TAG", "") for option in options)
    raise RecordError(f"{where}: unknown {key} {shown(tag)}; known are {known}")
