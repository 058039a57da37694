"""Hypothesis strategies: any record, drawn from its annotations."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from compression.records import Between, Length, Matches, Record, RecordError, _hints

MAX_ITEMS = 4


def records(cls: type[Record]) -> SearchStrategy[Any]:
    """Instances of a record; combinations that its own rules refuse are left out."""
    fields = {name: values(kind) for name, kind in _hints(cls).items()}
    return st.fixed_dictionaries(fields).map(lambda given: _made(cls, given)).filter(lambda x: x is not None)


def _made(cls: type[Record], given: dict[str, Any]) -> Record | None:
    try:
        return cls(**given)
    except RecordError:
        return None


def values(kind: Any) -> SearchStrategy[Any]:
    """Values of one annotation."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _constrained(args[0], args[1:])
    if origin in (Union, types.UnionType):
        return st.one_of([st.none() if option is type(None) else values(option) for option in args])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(values(args[0]), max_size=MAX_ITEMS).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(values(args[0]), values(args[1]), max_size=MAX_ITEMS)
    if isinstance(kind, type) and issubclass(kind, Record):
        special = _special(kind)
        return records(kind) if special is None else special
    plain: dict[Any, SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(-(2**53), 2**53),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(max_size=20),
    }
    return plain[kind]


def _special(kind: type[Record]) -> SearchStrategy[Any] | None:
    """Records whose fields depend on each other and are hardly ever drawn by chance."""
    from edge_client.wire.blobs import BlobRef
    from edge_client.wire.evaluation import EvaluationSums

    if kind is BlobRef:
        return st.binary(min_size=1, max_size=300_000).map(BlobRef.of)
    if kind is EvaluationSums:
        return st.lists(st.integers(0, 1000), min_size=4, max_size=4).map(
            lambda counts: EvaluationSums(loss_sum=float(sum(counts)), confusion=tuple(counts))
        )
    return None


def _constrained(kind: Any, constraints: tuple[Any, ...]) -> SearchStrategy[Any]:
    for constraint in constraints:
        if isinstance(constraint, Matches):
            return st.from_regex(constraint.pattern, fullmatch=True)
        if isinstance(constraint, Between) and kind is int:
            return st.integers(int(constraint.low), int(constraint.high))
        if isinstance(constraint, Between):
            return st.floats(constraint.low, constraint.high)
        if isinstance(constraint, Length) and kind is str:
            return st.text(min_size=constraint.low, max_size=min(constraint.high, 40))
        if isinstance(constraint, Length):
            return values(kind).filter(lambda value, c=constraint: c.problem(value) is None)
    raise AssertionError(constraints)
