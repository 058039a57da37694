"""What changed between two results of one benchmark, beyond the noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.bootstrap import CONFIDENCE, FLOOR, Change, compare_means, compare_medians, mean, median
from benchmarks.comparable import Measure, Sort, measures_of
from benchmarks.errors import BenchmarkError

MIN_SAMPLES = 5
ACCURACY_FLOOR = 0.005
SIZE_FLOOR = 0.01  # sizes have no noise; what rounds differently on another processor is no change
WORDS: Mapping[Sort, tuple[str, str]] = {
    "time": ("slower", "faster"),
    "size": ("larger", "smaller"),
    "accuracy": ("higher", "lower"),
}
SAME_MACHINE = ("label", "processor", "governor", "cores")
ROWS = ("models", "devices")  # of results whose rows say whether they were throttled


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that both results have: the median of times, a size, the mean accuracy over the seeds.

    `note` says why it cannot be told whether it changed; empty where it can.
    """

    what: str
    sort: Sort
    before: float
    after: float
    change: Change
    note: str = ""


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
        BenchmarkError: of different benchmarks, or with nothing in common that can be compared.
    """
    if before["benchmark"] != after["benchmark"]:
        raise BenchmarkError(
            f"a {before['benchmark']} cannot be compared with a {after['benchmark']}: "
            "take two results of one command"
        )
    first, second = ({each.what: each for each in measures_of(result)} for result in (before, after))
    differences = [_difference(first[what], second[what], floor) for what in first if what in second]
    if not differences:
        raise BenchmarkError(
            "the two results have no samples in common: were other files, threads or batches measured?"
        )
    return Comparison(before["benchmark"], tuple(differences), tuple(_warnings(before, after)), floor=floor)


def _difference(before: Measure, after: Measure, floor: float) -> Difference:
    number, fewest = (mean if before.sort == "accuracy" else median), min(before.fewest, after.fewest)
    values = (number(before.repeats), number(after.repeats))
    ratio = values[1] / values[0]
    change, note = Change(ratio, ratio, ratio, abs(ratio - 1) > SIZE_FLOOR), ""
    if before.sort != "size" and fewest < MIN_SAMPLES:
        of = "seeds" if before.sort == "accuracy" else "runs"
        change, note = replace(change, changed=False), f"{fewest} of {MIN_SAMPLES} {of} needed"
    elif before.sort == "time":
        change = compare_medians(before.repeats, after.repeats, floor=floor)
    elif before.sort == "accuracy":
        change = compare_means(before.repeats[0], after.repeats[0], floor=ACCURACY_FLOOR)
    return Difference(before.what, before.sort, *values, change, note)


def _warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    machines, others = _machines(before), _machines(after)
    for name in sorted(machines.keys() & others.keys()):
        for key in SAME_MACHINE:
            one, other = machines[name].get(key), others[name].get(key)
            if one != other:
                yield f"the machines differ: {f'{name} {key}'.strip()} was {one}, is {other}"
    lists = (result.get(key) for result in (before, after) for key in ROWS)
    if any(row.get("throttled") for rows in lists if isinstance(rows, list) for row in rows):
        yield "one of the two was throttled: its times are not the program's"


def _machines(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What was measured on, by the device's name; of a result of one machine without a name."""
    if not isinstance(rows := result.get("devices"), list):
        return {"": result.get("environment", {})}
    return {str(row["device"]): row["environment"] for row in rows if "environment" in row}


def verdict(comparison: Comparison) -> str:
    """What it comes to, in words."""
    changed = [each for each in comparison.differences if each.change.changed]
    lines = [f"WARNING: {warning}." for warning in comparison.warnings]
    lines += [_words(each) for each in changed]
    if not changed:
        lines.append(f"No change beyond the noise and {100 * comparison.floor:g} %.")
    if unsure := sum(1 for each in comparison.differences if each.note):
        lines.append(f"{unsure} of {len(comparison.differences)} were measured too seldom to tell.")
    return "\n".join(lines)


def _words(each: Difference) -> str:
    more, less = WORDS[each.sort]
    percent = 100 * abs(each.change.ratio - 1)
    return f"{each.what}: {percent:.{0 if percent >= 2 else 1}f} % {more if each.change.ratio > 1 else less}."
