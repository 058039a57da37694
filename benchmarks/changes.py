"""What changed between two results of one benchmark, beyond the noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bootstrap import CONFIDENCE, FLOOR, Change, Repeats, compare_medians, median
from benchmarks.errors import BenchmarkError

MIN_SAMPLES = 5
SAMPLES = ("samples_ms", "rounds_s")  # names of lists of raw samples in results
NAMING = ("file", "name", "model", "runtime", "threads", "batch", "xnnpack", "device")  # tell rows apart
SAME_MACHINE = ("label", "processor", "governor", "cores")


@dataclass(frozen=True, slots=True)
class Difference:
    """One list of samples that both results have; milliseconds or seconds as the benchmark says."""

    what: str
    before: float
    after: float
    change: Change


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that both have; `warnings` say why a change may not be the program's."""

    benchmark: str
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    confidence: float = CONFIDENCE
    floor: float = FLOOR

    @property
    def changed(self) -> bool:
        """Whether anything did."""
        return any(difference.change.changed for difference in self.differences)


def compare_results(
    before: Mapping[str, Any], after: Mapping[str, Any], *, floor: float = FLOOR
) -> Comparison:
    """Compare two results by their raw samples.

    Raises:
        BenchmarkError: of different benchmarks, or with nothing in common that has samples.
    """
    if before["benchmark"] != after["benchmark"]:
        raise BenchmarkError(
            f"a {before['benchmark']} cannot be compared with a {after['benchmark']}: "
            "take two results of one command"
        )
    first, second = (dict(_samples(result, "")) for result in (before, after))
    common = [what for what in first if what in second]
    if not common:
        raise BenchmarkError(
            "the two results have no samples in common: were other files, threads or batches measured?"
        )
    differences = [
        Difference(
            what,
            median(first[what]),
            median(second[what]),
            compare_medians(first[what], second[what], floor=floor),
        )
        for what in common
    ]
    return Comparison(before["benchmark"], tuple(differences), tuple(_warnings(before, after)), floor=floor)


def _samples(node: Any, path: str) -> Iterator[tuple[str, Repeats]]:
    """All raw samples with what they are of."""
    if isinstance(node, list):
        for item in node:
            yield from _samples(item, path)
        return
    if not isinstance(node, Mapping):
        return
    here = ", ".join(filter(None, [path, *[_word(key, node[key]) for key in NAMING if _named(node, key)]]))
    for key, value in node.items():
        if key in SAMPLES and isinstance(value, list):
            repeats = value if value and isinstance(value[0], list) else [value]
            if min(map(len, repeats)) >= MIN_SAMPLES:
                yield here or key, repeats
        elif key not in SAMPLES and key != "environment":
            named = isinstance(value, Mapping) and "name" not in value and key != "timings"
            yield from _samples(value, ", ".join(filter(None, [here, key if named else ""])))


def _word(key: str, value: Any) -> str:
    if key == "xnnpack":
        return "" if value else "no XNNPACK"
    return f"{key} {value}" if key in ("threads", "batch") else Path(str(value)).name


def _named(node: Mapping[str, Any], key: str) -> bool:
    return node.get(key) is not None and not isinstance(node[key], Mapping | list)


def _warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key in SAME_MACHINE:
        one, other = (result.get("environment", {}).get(key) for result in (before, after))
        if one != other:
            yield f"the machines differ: {key} was {one}, is {other}"
    if any(row.get("throttled") for result in (before, after) for row in result.get("models", [])):
        yield "one of the two was throttled: its times are not the program's"


def verdict(comparison: Comparison) -> str:
    """What it comes to, in words."""
    changed = [each for each in comparison.differences if each.change.changed]
    lines = [f"WARNING: {warning}." for warning in comparison.warnings]
    if not changed:
        return "\n".join([*lines, f"No change beyond the noise and {100 * comparison.floor:g} %."])
    for each in changed:
        slower = each.change.ratio > 1
        percent = 100 * (each.change.ratio - 1 if slower else 1 - each.change.ratio)
        lines.append(f"{each.what}: {percent:.0f} % {'slower' if slower else 'faster'}.")
    return "\n".join(lines)
