"""What so many bytes can hold: components first, kept values for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compression.updates.components import Components, Matrix, encode_components, take_components
from compression.updates.profile import CodecProfile
from compression.updates.stages import NEGLIGIBLE, Floats, a_sample

HEADER_BYTES = 65  # header, checksum, lengths of sections, tables of the entropy coder, about
AT_LEAST = 0.5  # share of the bytes that values get in a model so small that headers would take the rest


@dataclass(frozen=True, slots=True)
class Spent:
    """What a profile's bytes go to.

    Attributes:
        components: by matrix.
        coded: the same as `encode_components` writes them.
        density: share of values that the other bytes can hold.
    """

    components: Components
    coded: tuple[bytes, bytes, bytes]
    density: float


def spend(
    values: Floats, matrices: Sequence[Matrix], parameters: int, beside: float, profile: CodecProfile
) -> Spent:
    """Choose components for a profile's number of bytes, and subtract them from the values.

    Args:
        values: of all pruned tensors.
        matrices: where those lie.
        parameters: of the model.
        beside: bits that all other tensors take.
        profile: with `times`.
    """
    whole = 32 * parameters / profile.times
    budget = max(whole - 8 * HEADER_BYTES - beside, AT_LEAST * whole)
    unit = _unit(values)
    values /= unit  # squares of large values would overflow
    least = worth_of_a_bit(values, density_for(values.size, budget, profile.bits), profile.bits)
    components = take_components(values, unit, matrices, profile.level, least, budget)
    values *= unit
    coded = encode_components(components)
    left = budget - 8 * sum(map(len, coded))
    return Spent(components, coded, density_for(values.size, left, profile.bits))


def _unit(values: Floats) -> np.float32:
    """The power of two above the largest magnitude: nothing is rounded in a division by it.

    1 where all are negligible, so that nobody divides by a subnormal: their squares are zeros.
    """
    peak = max(-float(values.min(initial=0)), float(values.max(initial=0)))
    return np.float32(1 if peak < NEGLIGIBLE else 2.0 ** math.frexp(peak)[1])


def density_for(places: int, budget: float, bits: int) -> float:
    """The share of `places` that so many bits can hold."""
    if kept_bits(1.0, bits) * places <= budget:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(24):  # to less than a value of any model that a Pi trains
        middle = (low + high) / 2
        if kept_bits(middle, bits) * places > budget:
            high = middle
        else:
            low = middle
    return low


def kept_bits(density: float, bits: int) -> float:
    """Bits a place that positions, signs and levels take, by the entropy of where values lie."""
    if density >= 1:
        return float(bits)
    return density * bits - density * math.log2(density) - (1 - density) * math.log2(1 - density)


def worth_of_a_bit(values: Floats, density: float, bits: int) -> float:
    """Energy (square) that the smallest of the kept values has for each of its bits, by a sample of them."""
    sample = np.abs(a_sample(values))
    count = math.ceil(density * sample.size)
    if not 0 < count < sample.size:
        return 0.0
    smallest = float(np.partition(sample, -count)[-count])
    return smallest * smallest / (math.log2((1 - density) / density) + bits)
