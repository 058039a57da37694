"""What of a result can be compared with another result's: raw times, sizes, accuracies by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.bootstrap import Repeats

Sort = Literal["time", "size", "accuracy"]
NAMING = (  # tell rows apart
    "file",
    "name",
    "model",
    "profile",
    "strategy",
    "codec",
    "compression",
    "runtime",
    "threads",
    "batch",
    "xnnpack",
    "device",
    "network",
    "link",
)
COMPARED: Mapping[str, tuple[Sort, str]] = {  # key of a result: what it is, and a word for it
    "samples_ms": ("time", ""),
    "rounds_s": ("time", ""),
    "encode_cpu_s": ("time", "encode"),
    "decode_cpu_s": ("time", "decode"),
    "runs": ("time", ""),
    "payload_bytes": ("size", "payload"),
    "file_bytes": ("size", "file"),
    "zipped_bytes": ("size", "zipped"),
    "bytes_up": ("size", "bytes up"),
    "bytes_down": ("size", "bytes down"),
    "accuracies": ("accuracy", "accuracy"),
}
NOT_COMPARED = ("environment", "operators", "layers")


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that was measured; a size is one number, an accuracy one a seed, times are raw runs."""

    what: str
    sort: Sort
    repeats: Repeats

    @property
    def fewest(self) -> int:
        """Samples of the shortest repeat."""
        return min(map(len, self.repeats))


def measures_of(node: Any, path: str = "") -> Iterator[Measure]:
    """All that there is, with what it is of."""
    if isinstance(node, list):
        for item in node:
            yield from measures_of(item, path)
        return
    if not isinstance(node, Mapping):
        return
    if "results" in node:  # of a flash, whose first row stands beside them too
        node = {"results": node["results"]}
    here = _joined(path, *[_word(key, node[key]) for key in NAMING if _named(node, key)])
    for key, value in node.items():
        if key in COMPARED:
            yield from _measures(key, value, here)
        elif key not in NOT_COMPARED:
            named = isinstance(value, Mapping) and "name" not in value and key not in ("timings", "report")
            yield from measures_of(value, _joined(here, key if named else ""))


def _measures(key: str, value: Any, here: str) -> Iterator[Measure]:
    sort, word = COMPARED[key]
    if isinstance(value, Mapping):  # by name, as a flash's runs
        for name, samples in value.items():
            yield from _measures(key, samples, _joined(here, str(name)))
    elif isinstance(value, list) and value:
        repeats = value if isinstance(value[0], list) else [value]
        if all(_positive(repeat) for repeat in repeats):
            yield Measure(_joined(here, word) or key, sort, repeats)
    elif sort == "size" and isinstance(value, int | float) and value > 0:
        yield Measure(_joined(here, word), sort, [[value]])


def _positive(repeat: Any) -> bool:
    """Whether it is a list of numbers above 0, of which ratios can be taken."""
    if not isinstance(repeat, list) or not repeat:
        return False
    return all(isinstance(sample, int | float) and sample > 0 for sample in repeat)


def _joined(*words: str) -> str:
    return ", ".join(word for word in words if word)


def _word(key: str, value: Any) -> str:
    if key == "xnnpack":
        return "" if value else "no XNNPACK"
    if key == "network":
        return "" if value == "loopback" else str(value)
    if key in ("threads", "batch"):
        return f"{key} {value}"
    return Path(str(value)).name if key in ("file", "model") else str(value)


def _named(node: Mapping[str, Any], key: str) -> bool:
    return node.get(key) is not None and not isinstance(node[key], Mapping | list)
