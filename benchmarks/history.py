"""Results as tables and plots: which figures of which benchmark are shown, and how they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a row; `path` leads to it, `factor` makes it the header's unit."""

    header: str
    path: str
    form: str = ".4g"
    factor: float = 1.0

    def number(self, row: Result) -> float | None:
        """The figure; None where this row has none."""
        node: Any = row
        for step in self.path.split("."):
            node = node.get(step) if isinstance(node, Mapping) else None
        return None if isinstance(node, bool) or not isinstance(node, int | float) else node * self.factor

    def values(self, rows: Sequence[tuple[str, Result]]) -> list[tuple[str, float]]:
        """The figures of the rows that have one, with the rows' names."""
        return [(name, number) for name, row in rows if (number := self.number(row)) is not None]

    def cell(self, row: Result) -> str:
        """The figure as text."""
        value = self.number(row)
        return "-" if value is None else format(value, self.form)


@dataclass(frozen=True, slots=True)
class Kind:
    """One benchmark: where its rows are, what names them, what is shown, and what is drawn of it."""

    rows: str  # keys of the result with commas between, each of a row or of a list; empty: the result itself
    columns: tuple[Column, ...]
    drawn: tuple[int, ...] = (0,)  # columns, the rows side by side
    alike: tuple[int, ...] = ()  # columns of one unit, drawn side by side where there is one row only


SYSTEM = Kind(
    "ours,flower,bare,fleet",
    (
        Column("round s", "round_s", ".3f"),
        Column("up kB", "bytes_up_per_client_round", ".2f", 1e-3),
        Column("down kB", "bytes_down_per_client_round", ".2f", 1e-3),
        Column("client PSS MB", "client_pss_mb", ".1f"),
        Column("server PSS MB", "server_pss_mb", ".1f"),
        Column("server CPU s/round", "server_cpu_s_per_round", ".3f"),
    ),
    (0, 1, 2, 3),
    (1, 2),
)
KINDS: Mapping[str, Kind] = {
    "latency": Kind(
        "models",
        (
            Column("p50 ms", "timings.p50_ms"),
            Column("p90 ms", "timings.p90_ms"),
            Column("p99 ms", "timings.p99_ms"),
            Column("load ms", "load_ms"),
            Column("cold start ms", "cold_start.process_ms", ".0f"),
            Column("peak MB", "cold_start.peak_rss_mb", ".0f"),
            Column("off by at most", "max_difference", ".2g"),
        ),
        alike=(0, 1, 2),
    ),
    "size": Kind(
        "models",
        (
            Column("kB", "report.file_bytes", ".1f", 1e-3),
            Column("zipped kB", "report.zipped_bytes", ".1f", 1e-3),
            Column("zeros", "sparsity", ".1%"),
            Column("process MB", "peak_rss_mb", ".0f"),
        ),
        (0, 1),
        (0, 1),
    ),
    "train": Kind(
        "ours,keras",
        (
            Column("ms/step", "ms_per_step"),
            Column("p99 ms", "p99_ms"),
            Column("examples/s", "examples_per_s", ".0f"),
            Column("peak MB", "peak_rss_mb", ".0f"),
        ),
        (0, 3),
        (0, 1),
    ),
    "energy": Kind("", (Column("mJ/answer", "mj_per_answer"), Column("W", "watts", ".3g"))),
    "peers": SYSTEM,
    "fleet": SYSTEM,
    "fleet-latency": Kind(
        "devices",
        (
            Column("p50 ms", "timings.p50_ms"),
            Column("p90 ms", "timings.p90_ms"),
            Column("p99 ms", "timings.p99_ms"),
            Column("load ms", "load_ms"),
            Column("cold start ms", "cold_start.process_ms", ".0f"),
            Column("peak MB", "cold_start.peak_rss_mb", ".0f"),
            Column("C after", "conditions.temperature_after_c", ".0f"),
        ),
        alike=(0, 1, 2),
    ),
    "wire": Kind(
        "rows",
        (
            Column("bytes/parameter", "bytes_per_parameter", ".4f"),
            Column("cosine", "cosine", ".3f"),
            Column("encode s", "encode_s", ".3g"),
            Column("decode s", "decode_s", ".3g"),
            Column("peak, of update", "peak_times", ".1f"),
        ),
        (0, 2, 3),
        (2, 3),
    ),
    "accuracy-bytes": Kind(
        "rows",
        (
            Column("accuracy", "accuracy_mean", ".4f"),
            Column("+-", "accuracy_std", ".4f"),
            Column("times fewer up", "ratio_up", ".1f"),
            Column("times fewer down", "ratio_down", ".1f"),
            Column("cosine up", "cosine_up", ".2f"),
            Column("rounds to target", "rounds_to_target", ".1f"),
        ),
        (0, 2),
    ),
    "strategies": Kind(
        "rows",
        (
            Column("held out", "accuracy_mean", ".4f"),
            Column("+-", "accuracy_std", ".4f"),
            Column("last rounds", "accuracy_last_rounds", ".4f"),
            Column("worst drop", "worst_drop", ".4f"),
            Column("own data", "own_mean", ".4f"),
            Column("tuned", "tuned_mean", ".4f"),
        ),
        (0, 4),
    ),
    "aggregate": Kind(
        "",
        (
            Column("ms/update", "s_per_update", ".3f", 1e3),
            Column("NumPy ms", "numpy_s_per_update", ".3f", 1e3),
            Column("ours/NumPy", "ratio_numpy", ".1f"),
            Column("peak MB", "peak_rss_mb", ".0f"),
        ),
        alike=(0, 1),
    ),
    "flash": Kind(
        "results",
        (
            Column("ours s", "ours_s", ".2f"),
            Column("of it read back s", "ours_read_back_s", ".2f"),
            Column("bmaptool s", "bmaptool_s", ".2f"),
            Column("dd s", "dd_s", ".2f"),
            Column("x bmaptool", "ours_against_bmaptool", ".2f"),
            Column("x dd", "ours_against_dd", ".2f"),
        ),
        alike=(0, 1, 2, 3),
    ),
}
NAMED_BY = ("file", "profile", "strategy", "codec", "compression")  # a row's name is the first that it has


def rows_of(result: Result) -> list[tuple[str, Result]]:
    """The rows of a result, each named by what tells it apart; none for a benchmark without a table."""
    named, common = _named_rows(result), common_words(result)
    return [(", ".join(word for word in words if word not in common), row) for words, row in named]


def common_words(result: Result) -> tuple[str, ...]:
    """What all rows of a result have in common beside their names, as the runtime; nothing of one row."""
    first, *others = [words for words, _ in _named_rows(result)] or [()]
    shared = [word for word in first[1:] if all(word in words[1:] for words in others)]
    return tuple(shared) if others else ()


def _named_rows(result: Result) -> list[tuple[tuple[str, ...], Result]]:
    kind = KINDS.get(str(result["benchmark"]))
    if kind is None:
        return []
    if not kind.rows:
        return [(_words(result, ""), result)]
    found: list[tuple[tuple[str, ...], Result]] = []
    for key in kind.rows.split(","):
        value = result.get(key)
        if isinstance(value, list):
            found += [(_words(row, ""), row) for row in value if isinstance(row, Mapping)]
        elif isinstance(value, Mapping):
            found.append((_words(value, key), value))
    return found


def _words(row: Result, key: str) -> tuple[str, ...]:
    """A row's own name, then how it was measured."""
    named = next((name for name in NAMED_BY if name in row), None)
    words = [key if named is None else Path(str(row[named])).name if named == "file" else str(row[named])]
    if "xnnpack" in row:
        words += [str(row.get("runtime", "")), f"{row.get('threads')} thr."]
        words += [] if row["xnnpack"] else ["no XNNPACK"]
        words += [f"batch {row['batch']}"] if row.get("batch") else []
    return tuple(word for word in [str(row.get("device", "")), *words] if word)


def title_of(result: Result) -> str:
    """What was measured, when and where, and what all of its rows have in common."""
    words = [str(result["benchmark"]), str(result.get("at", "?")), where_of(result), *common_words(result)]
    return ", ".join([*words, *(str(result[key]) for key in ("network", "link") if result.get(key))])


def where_of(result: Result) -> str:
    """What was measured on; a fleet was only asked from the machine of the result."""
    if not isinstance(rows := result.get("devices"), list):
        return str(result["environment"]["label"])
    labels = [row["environment"]["label"] for row in rows if "environment" in row]
    return f"{len(labels)} devices: {', '.join(sorted(set(labels)))}"


def markdown(results: Sequence[Result]) -> str:
    """Every result as a Markdown table."""
    parts = []
    for result in results:
        kind = KINDS.get(str(result["benchmark"]))
        if kind is None:
            continue
        lines = [f"### {title_of(result)}", "", _line(["", *[column.header for column in kind.columns]])]
        lines.append(_line(["---", *["---:"] * len(kind.columns)]))
        for name, row in rows_of(result):
            lines.append(_line([name, *[column.cell(row) for column in kind.columns]]))
        parts.append("\n".join([*lines, *_verdict(result)]))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _verdict(result: Result) -> list[str]:
    return ["", str(result["verdict"])] if result.get("verdict") else []
