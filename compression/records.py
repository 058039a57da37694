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
import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from compression.errors import BrambleError

Json = Any  # what json.loads returns: None, bool, int, float, str, list, dict
R = TypeVar("R", bound="Record")
SHOWN_CHARACTERS = 80  # of a foreign value in an error message: logs stay readable


class RecordError(BrambleError, ValueError):
    """A value does not fit its record; the message names the field, the value and the rule."""


@dataclass(frozen=True, slots=True)
class Between:
    """Bounds of a number, both included."""

    low: float
    high: float

    def problem(self, value: Any) -> str | None:
        return None if self.low <= value <= self.high else f"must be from {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Matches:
    """A regular expression that the whole string matches."""

    pattern: str

    def problem(self, value: Any) -> str | None:
        return None if re.fullmatch(self.pattern, value) else f"must match {self.pattern}"


@dataclass(frozen=True, slots=True)
class Length:
    """Bounds of the number of characters, items or keys, both included."""

    low: int
    high: int

    def problem(self, value: Any) -> str | None:
        return None if self.low <= len(value) <= self.high else f"must hold {self.low} to {self.high}"


Constraint = Between | Matches | Length


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
        for name, kind in _hints(type(self)).items():
            _check(kind, getattr(self, name), f"{type(self).__name__}.{name}")


def to_plain(value: Any) -> Json:
    """The record as dicts, lists and scalars, ready for JSON."""
    if isinstance(value, Record):
        tag = {value.TAG_KEY: value.TAG} if value.TAG else {}
        return tag | {name: to_plain(getattr(value, name)) for name in _hints(type(value))}
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
        raise RecordError(f"{where}: expected a table, got {_shown(plain)}")
    given = dict(plain)
    if cls.TAG and (tag := given.pop(cls.TAG_KEY, None)) != cls.TAG:
        raise RecordError(f"{where}: expected {cls.TAG_KEY} {cls.TAG!r}, got {_shown(tag)}")
    hints = _hints(cls)
    if unknown := sorted(key for key in given if key not in hints):
        raise RecordError(f"{where}: unknown key {_shown(unknown[0])}; known are {', '.join(hints)}")
    if missing := [name for name in _required(cls) if name not in given]:
        raise RecordError(f"{where}: {missing[0]} is missing")
    return cls(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in given.items()})


def dumps(record: Record) -> bytes:
    """The canonical JSON of a record, UTF-8."""
    text = json.dumps(
        to_plain(record), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8", "strict")


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


def _required(cls: type[Record]) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in fields(cast(Any, cls))
        if field.default is MISSING and field.default_factory is MISSING
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _build(kind: Any, plain: Json, where: str) -> Any:
    """Turn JSON's lists and dicts into the tuples and records that `kind` asks for."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _build(args[0], plain, where)
    if _is_union(kind):
        if plain is None:
            return None
        return _build(_chosen(args, plain, where), plain, where)
    if origin is tuple and isinstance(plain, list):
        return tuple(_build(args[0], item, f"{where}[{index}]") for index, item in enumerate(plain))
    if origin in (dict, Mapping) and isinstance(plain, dict):
        return {key: _build(args[1], item, f"{where}.{key}") for key, item in plain.items()}
    if isinstance(kind, type) and issubclass(kind, Record):
        return from_plain(kind, plain, where)
    if kind is float and type(plain) is int:
        return float(plain)
    return plain


def _chosen(options: tuple[Any, ...], plain: Json, where: str) -> Any:
    candidates = [option for option in options if option is not type(None)]
    if len(candidates) == 1:
        return candidates[0]
    key = next((option.TAG_KEY for option in candidates if hasattr(option, "TAG_KEY")), "type")
    tag = plain.get(key) if isinstance(plain, dict) else None
    for option in candidates:
        if isinstance(option, type) and issubclass(option, Record) and tag == option.TAG:
            return option
    known = ", ".join(getattr(option, "TAG", "") for option in candidates)
    raise RecordError(f"{where}: unknown {key} {_shown(tag)}; known are {known}")


def _check(kind: Any, value: Any, where: str) -> None:  # noqa: PLR0912 - one branch a kind reads best
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        _check(args[0], value, where)
        for constraint in args[1:]:
            if problem := constraint.problem(value):
                raise RecordError(f"{where} {problem}, got {_shown(value)}")
    elif _is_union(kind):
        if value is None and type(None) in args:
            return
        options = [option for option in args if option is not type(None)]
        if len(options) == 1:
            _check(options[0], value, where)
        elif type(value) not in options:
            raise RecordError(f"{where}: {_shown(value)} is none of the records it may hold")
    elif origin is Literal:
        if not any(type(value) is type(option) and value == option for option in args):
            raise RecordError(f"{where} must be one of {', '.join(map(str, args))}, got {_shown(value)}")
    elif origin is tuple:
        _require(isinstance(value, tuple), where, "a tuple", value)
        for index, item in enumerate(value):
            _check(args[0], item, f"{where}[{index}]")
    elif origin in (dict, Mapping):
        _require(isinstance(value, Mapping), where, "a mapping", value)
        for key, item in value.items():
            _check(args[0], key, f"{where} key")
            _check(args[1], item, f"{where}.{_shown(key)}")
    elif kind is float:
        _require(type(value) is float and math.isfinite(value), where, "a finite number", value)
    else:
        _require(type(value) is kind, where, kind.__name__, value)


def _require(holds: bool, where: str, wanted: str, value: Any) -> None:
    if not holds:
        raise RecordError(f"{where} must be {wanted}, got {_shown(value)}")
