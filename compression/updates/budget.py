"""What so many bytes can hold: components first, kept values for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from compression.updates.components import Components, Matrix, encode_components, take_components
from compression.updates.profile import CodecProfile
from compression.updates.stages import Floats, nth_largest

HEADER_BYTES = 65  # header, checksum, lengths of sections, tables of the entropy coder, about
AT_LEAST = 0.5  # share of the bytes that values get in a model so small that headers would take the rest


def spend(
    values: Floats, matrices: Sequence[Matrix], parameters: int, beside: float, profile: CodecProfile
) -> tuple[Components, float]:
    """Choose components for a profile's number of bytes, and subtract them from the values.

    Args:
        values: of all pruned tensors.
        matrices: where those lie.
        parameters: of the model.
        beside: bits that all other tensors take.
        profile: with `times`.

    Returns:
        The components by matrix, and the share of values that the other bytes can hold.
    """
    whole = 32 * parameters / profile.times
    budget = max(whole - 8 * HEADER_BYTES - beside, AT_LEAST * whole)
    worth = worth_of_a_bit(values, density_for(values.size, budget, profile.bits), profile.bits)
    components = take_components(values, matrices, profile.level, worth, budget)
    spent = 8 * sum(map(len, encode_components(components)))
    return components, density_for(values.size, budget - spent, profile.bits)


def density_for(places: int, budget: float, bits: int) -> float:
    """The share of `places` that so many bits can hold."""
    if kept_bits(1.0, bits) * places <= budget:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
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
    """Share of all energy (sum of squares) that the smallest of the kept values has for each of its bits."""
    count = math.ceil(density * values.size)
    magnitudes = np.abs(values)
    peak = magnitudes.max(initial=np.float32(0))
    if not 0 < count < values.size or peak == 0:
        return 0.0
    magnitudes /= peak  # squares of large values would overflow
    energy = float(np.vdot(magnitudes, magnitudes))
    smallest = float(nth_largest(magnitudes, count))
    return smallest * smallest / energy / (math.log2((1 - density) / density) + bits)
