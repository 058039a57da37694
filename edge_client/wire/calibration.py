"""Sums from which calibration follows without any example leaving: they add up over devices.

Two things are asked. How surely the model answers: the summed loss at each of a fixed grid of
temperatures (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017), whose minimum over the
fleet is exact on the grid. And what the training inputs look like: first and second moments of a few
features of each input (`edge_client.inference.likeness`).
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import add
from typing import Annotated

from compression.records import Between, Length, Record, RecordError

MAX_FEATURES = 32
MAX_PRODUCTS = MAX_FEATURES * (MAX_FEATURES + 1) // 2
TEMPERATURES = tuple(2.0 ** (step / 8) for step in range(-16, 25))  # 0.25 to 8, nine per cent apart

Count = Annotated[int, Between(0, 1 << 40)]
Losses = Annotated[tuple[Annotated[float, Between(0, 1e15)], ...], Length(0, 41)]
Features = Annotated[tuple[Annotated[float, Between(-1e15, 1e15)], ...], Length(0, MAX_FEATURES)]
Products = Annotated[tuple[Annotated[float, Between(-1e15, 1e15)], ...], Length(0, MAX_PRODUCTS)]


@dataclass(frozen=True, slots=True)
class CalibrationSums(Record):
    """What one device adds.

    Attributes:
        examples: validation examples behind `losses`.
        losses: summed negative log-likelihood at each of `TEMPERATURES`; empty without examples.
        seen: training examples behind the moments.
        features: sum of each feature; empty without examples.
        products: sums of the products of two features, upper triangle by rows.
    """

    examples: Count = 0
    losses: Losses = ()
    seen: Count = 0
    features: Features = ()
    products: Products = ()

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if len(self.losses) != (len(TEMPERATURES) if self.examples else 0):
            raise RecordError(f"CalibrationSums: {len(self.losses)} losses of {self.examples} examples")
        if bool(self.seen) != bool(self.features):
            raise RecordError(f"CalibrationSums: {len(self.features)} features of {self.seen} examples")
        check_triangle(self.features, self.products)

    def __add__(self, other: CalibrationSums) -> CalibrationSums:
        if self.features and other.features and len(self.features) != len(other.features):
            raise RecordError("CalibrationSums: different numbers of features cannot be added")
        return CalibrationSums(
            examples=self.examples + other.examples,
            losses=_added(self.losses, other.losses),
            seen=self.seen + other.seen,
            features=_added(self.features, other.features),
            products=_added(self.products, other.products),
        )


@dataclass(frozen=True, slots=True)
class Likeness(Record):
    """What an input must look like to be answered: a Mahalanobis distance and its limit.

    Attributes:
        mean: of the features over the fleet's training examples.
        precision: inverse of their covariance, upper triangle by rows.
        limit: largest distance that is answered; 1 is typical.
    """

    mean: Annotated[Features, Length(1, MAX_FEATURES)]
    precision: Products
    limit: Annotated[float, Between(0, 1e15)]

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        check_triangle(self.mean, self.precision)


@dataclass(frozen=True, slots=True)
class Answering(Record):
    """How a model's bare output becomes an answer; signed with the release."""

    temperature: Annotated[float, Between(1e-2, 1e2)] = 1.0
    likeness: Likeness | None = None


def check_triangle(features: tuple[float, ...], products: tuple[float, ...]) -> None:
    """Raise `RecordError` unless `products` is the upper triangle of as many rows as there are features."""
    wanted = len(features) * (len(features) + 1) // 2
    if len(products) != wanted:
        raise RecordError(f"{len(features)} features need {wanted} products, got {len(products)}")


def _added(left: tuple[float, ...], right: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(map(add, left, right)) if left and right else left or right
