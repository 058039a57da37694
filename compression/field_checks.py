"""From a field's annotation to a function that checks its values.

Annotations are taken apart once a class, not once a value: a message has dozens of fields, and records are
built for every message, row and settings file.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

SHOWN_CHARACTERS = 80  # of a foreign value in an error message: logs stay readable

Checker = Callable[[Any], str | None]  # what is wrong with a value, to be put behind the field's name


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


def shown(value: Any) -> str:
    """A foreign value in an error message."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def is_union(kind: Any) -> bool:
    """Whether an annotation names alternatives."""
    return get_origin(kind) in (Union, types.UnionType)


def checker(kind: Any) -> Checker:
    """The function that checks values against an annotation."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _constrained(checker(args[0]), args[1:])
    if is_union(kind):
        return _one_of(args)
    if origin is Literal:
        return _literal(args)
    if origin is tuple:
        return _items(checker(args[0]))
    if origin in (dict, Mapping):
        return _mapping(checker(args[0]), checker(args[1]))
    return _finite if kind is float else _exactly(kind)


def _constrained(inner: Checker, constraints: tuple[Constraint, ...]) -> Checker:
    def check(value: Any) -> str | None:
        if (problem := inner(value)) is not None:
            return problem
        for constraint in constraints:
            if problem := constraint.problem(value):
                return f" {problem}, got {shown(value)}"
        return None

    return check


def _one_of(args: tuple[Any, ...]) -> Checker:
    options = [option for option in args if option is not type(None)]
    may_lack = len(options) < len(args)
    if len(options) == 1:
        inner = checker(options[0])
        return lambda value: None if value is None and may_lack else inner(value)

    def check(value: Any) -> str | None:
        if (value is None and may_lack) or type(value) in options:
            return None
        return f": {shown(value)} is none of the records it may hold"

    return check


def _literal(options: tuple[Any, ...]) -> Checker:
    known = ", ".join(map(str, options))

    def check(value: Any) -> str | None:
        if any(type(value) is type(option) and value == option for option in options):
            return None
        return f" must be one of {known}, got {shown(value)}"

    return check


def _items(inner: Checker) -> Checker:
    def check(value: Any) -> str | None:
        if not isinstance(value, tuple):
            return f" must be a tuple, got {shown(value)}"
        for index, item in enumerate(value):
            if (problem := inner(item)) is not None:
                return f"[{index}]{problem}"
        return None

    return check


def _mapping(keys: Checker, values: Checker) -> Checker:
    def check(value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return f" must be a mapping, got {shown(value)}"
        for key, item in value.items():
            if (problem := keys(key)) is not None:
                return f" key{problem}"
            if (problem := values(item)) is not None:
                return f".{shown(key)}{problem}"
        return None

    return check


def _finite(value: Any) -> str | None:
    if type(value) is float and math.isfinite(value):
        return None
    return f" must be a finite number, got {shown(value)}"


def _exactly(kind: type) -> Checker:
    return lambda value: None if type(value) is kind else f" must be {kind.__name__}, got {shown(value)}"
