"""Codecs to compare: our profiles, and what peers and papers send, the latter for benchmarks only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from benchmarks.codecs.codec import Codec, Context
from benchmarks.codecs.drive import Drive
from benchmarks.codecs.float32 import Float32
from benchmarks.codecs.int8_blocks import Int8Blocks
from benchmarks.codecs.profiles import ProfileCodec
from benchmarks.codecs.qsgd import Qsgd
from benchmarks.codecs.sparse_ternary import SparseTernary
from benchmarks.codecs.top_k import TopK
from benchmarks.errors import BenchmarkError
from compression.updates import PROFILES

BASELINES: Mapping[str, Codec] = MappingProxyType(
    {
        codec.name: codec
        for codec in (
            Float32("float32", "McMahan et al., 2017"),
            Int8Blocks("int8", "Dettmers, 2016"),
            SparseTernary("stc-4", "Sattler et al., 2019", feedback=True, density=0.04),
            SparseTernary("stc-1", "Sattler et al., 2019", feedback=True, density=0.01),
            Drive("drive", "Vargaftik et al., 2021"),
            Qsgd("qsgd", "Alistarh et al., 2017"),
            TopK("topk-10", "Aji and Heafield, 2017", density=0.10),
            TopK("topk-1", "Aji and Heafield, 2017", density=0.01),
        )
    }
)  # the number in a name is the percentage that is kept
CODECS: Mapping[str, Codec] = MappingProxyType(
    {profile.name: ProfileCodec(profile) for profile in PROFILES.values()} | dict(BASELINES)
)

__all__ = ["BASELINES", "CODECS", "Codec", "Context", "find_codec", "for_steps"]


def find_codec(name: str) -> Codec:
    """By name; raise `BenchmarkError` for an unknown one."""
    if name not in CODECS:
        raise BenchmarkError(f"unknown codec {name!r}; known are {', '.join(CODECS)}")
    return CODECS[name]


def for_steps(codec: Codec) -> Codec:
    """The codec for the way down: our profiles have a setting for that, the others are the same both ways."""
    return replace(codec, profile=codec.profile.for_steps) if isinstance(codec, ProfileCodec) else codec
