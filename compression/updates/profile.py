"""How hard an update is compressed: one record, and the ones that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Literal

from compression.records import Between, Matches, Record, RecordError

Bits = Literal[1, 2, 3, 4, 5, 6, 7, 8, 32]
EXACT_BITS: Bits = 32


@dataclass(frozen=True, slots=True)
class CodecProfile(Record):
    """Settings of the stages.

    Attributes:
        name: for people and logs.
        density: fraction of the prunable elements that is kept, by magnitude.
        bits: of a kept value: the sign and ``bits - 1`` of magnitude. 1 is sparse ternary coding below
            density 1 and 1-bit coding at it; 32 sends everything as it is.
        scope: elements compete for being kept over the whole model, or each within its tensor.
        block: kept values that share a scale.
        whole_share: the smallest tensors (biases) are never pruned, up to this share of all parameters.
        whole_mantissa: bits after the leading one that values of those tensors keep.
        statistic_mantissa: the same for batch normalisation's statistics.
        rounding: of magnitudes between two levels; "stochastic" is unbiased and needs bits of at least 2.
        warmup_rounds: over so many rounds the density falls geometrically to `density` (Lin et al., 2018):
            the first rounds move the weights most, and what they keep back is late by the rounds it is owed.
        first_density: where it begins.
        step_factor: a step of the server keeps so many times as many elements: every client's are in it.
        times: a payload has so many times fewer bytes than float32. Components and kept values share them
            and `density` says nothing; 0: no components, and `density` it is. A model of a few thousand
            parameters takes more: headers are what they are.
        level: largest magnitude of a number of a component.
    """

    name: Annotated[str, Matches(r"[A-Za-z0-9_-]{1,32}")]
    density: Annotated[float, Between(1e-6, 1.0)] = 1.0
    bits: Bits = 8
    scope: Literal["model", "tensor"] = "model"
    block: Annotated[int, Between(16, 65535)] = 512
    whole_share: Annotated[float, Between(0.0, 1.0)] = 0.003
    whole_mantissa: Annotated[int, Between(0, 23)] = 7
    statistic_mantissa: Annotated[int, Between(0, 23)] = 7
    rounding: Literal["nearest", "stochastic"] = "nearest"
    warmup_rounds: Annotated[int, Between(0, 10_000)] = 0
    first_density: Annotated[float, Between(1e-6, 1.0)] = 1.0
    step_factor: Annotated[float, Between(1.0, 100.0)] = 1.0
    times: Annotated[float, Between(0.0, 10_000.0)] = 0.0
    level: Annotated[int, Between(1, 127)] = 7

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.rounding == "stochastic" and not 2 <= self.bits <= 8:
            raise RecordError(f"CodecProfile: stochastic rounding needs bits from 2 to 8, got {self.bits}")
        if self.times and (self.warmup_rounds or self.exact):
            raise RecordError("CodecProfile: times is the same in all rounds, and of what loses something")

    @property
    def exact(self) -> bool:
        """Nothing is lost."""
        return self.bits == EXACT_BITS

    def at_round(self, round_number: int) -> CodecProfile:
        """The profile with the density that the warm-up has reached; rounds count from 1."""
        if round_number >= self.warmup_rounds:
            return self
        done = max(round_number - 1, 0) / (self.warmup_rounds - 1)
        return replace(self, density=self.first_density * (self.density / self.first_density) ** done)

    @property
    def for_steps(self) -> CodecProfile:
        """The profile of the server's steps."""
        return replace(
            self,
            times=self.times / self.step_factor,
            density=min(1.0, self.step_factor * self.density),
            first_density=min(1.0, self.step_factor * self.first_density),
        )


PROFILES: Mapping[str, CodecProfile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            CodecProfile("lossless", bits=EXACT_BITS),
            CodecProfile("safe", times=25.0, bits=3, whole_mantissa=4),
            CodecProfile(
                "medium",
                times=51.0,
                level=5,
                bits=1,
                whole_mantissa=4,
                statistic_mantissa=4,
                step_factor=1.5,
            ),
            CodecProfile(
                "small",
                times=101.0,
                level=4,
                bits=1,
                whole_share=0.001,
                whole_mantissa=2,
                statistic_mantissa=2,
                step_factor=1.35,  # what goes around a step must fit into a fiftieth, too
            ),
            CodecProfile(
                "tiny",
                times=250.0,
                level=3,
                bits=1,
                whole_share=0.001,
                whole_mantissa=2,
                statistic_mantissa=2,
                step_factor=2.0,
            ),
        )
    }
)
