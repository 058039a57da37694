"""What the parts of the report are made of: bounded numbers and words, and how long an answer takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from compression.records import Between, Length, Record

Word = Annotated[str, Length(1, 200)]
Sentence = Annotated[str, Length(1, 2000)]
Share = Annotated[float, Between(0, 1)]
Amount = Annotated[float, Between(0, 1e18)]
Ratio = Annotated[float, Between(1e-9, 1e18)]
Count = Annotated[int, Between(0, 1 << 53)]


@dataclass(frozen=True, slots=True)
class LatencyFigures(Record):
    """Time of one inference of one example, after warm-up."""

    p50: Amount | None = None
    p99: Amount | None = None
    runs: Count | None = None
