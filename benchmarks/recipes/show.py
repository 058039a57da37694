"""A comparison of recipes as a table of text and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.recipes.compare import RecipeResult
from benchmarks.recipes.data import RecipeData
from compression.text_table import bytes_text, text_table

HEADER = (
    "recipe",
    "size",
    "zipped",
    "smaller",
    "accuracy",
    "F1",
    "precision",
    "recall",
    "AUC",
    "p50 ms",
    "p99 ms",
    "peak MB",
    "computes",
    "calibration",
    "front",
)


def comparison_text(results: Sequence[RecipeResult], data: RecipeData) -> str:
    """A line a recipe, then what a reader has to know about them."""
    measured = [result for result in results if result.figures is not None]
    lines = [
        f"{data.source}: {len(data.test)} examples of its {data.split} split, {len(data.train)} trained on",
        "",
        text_table(HEADER, [_row(result) for result in measured])
        if measured
        else "no recipe could be applied",
        "",
        "front: no other recipe is smaller when zipped and at least as accurate",
        "smaller: when zipped, than float32",
    ]
    if measured and measured[0].figures is not None:
        lines.append(f"times: one example, one thread, {measured[0].figures.runtime}, this machine")
    lines += [f"{r.recipe}: simulated, {r.simulated}" for r in results if r.simulated]
    lines += [f"{r.recipe}: left as it is, {layer}" for r in results for layer in r.skipped]
    lines += [f"{r.recipe}: not possible, {r.error}" for r in results if r.error]
    return "\n".join(lines)


def draw_front(results: Sequence[RecipeResult], file: Path) -> None:
    """Accuracy against zipped size; the front as a line. `benchmarks.plot.check_plot_file` comes before."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a device does not have it

    figure = Figure(figsize=(9, 5), layout="constrained", dpi=130)
    axes = figure.subplots()
    points = sorted(
        (r.figures.zipped_bytes / 1e3, 100 * r.quality.accuracy, r.recipe, r.pareto)
        for r in results
        if r.figures is not None and r.quality is not None
    )
    front = [point for point in points if point[3]]
    axes.plot([p[0] for p in front], [p[1] for p in front], "-", color="C0", linewidth=1, zorder=1)
    for size, accuracy, name, best in points:
        axes.scatter(size, accuracy, color="C0" if best else "grey", s=30, zorder=2)
        axes.annotate(name, (size, accuracy), textcoords="offset points", xytext=(5, 4), fontsize=7)
    axes.set(
        xscale="log",
        xlabel="zipped file, kB",
        ylabel="accuracy on held-out examples, %",
        title="Pareto front",
    )
    figure.savefig(file)


def _row(result: RecipeResult) -> list[str]:
    figures, quality = result.figures, result.quality
    if figures is None or quality is None:
        raise ValueError(f"{result.recipe} has no figures")
    smaller = result.size_reduction_percent
    return [
        result.recipe,
        bytes_text(figures.size_bytes),
        bytes_text(figures.zipped_bytes),
        "-" if smaller is None else f"{smaller:.1f} %",
        *[f"{100 * v:.2f} %" for v in (quality.accuracy, quality.f1, quality.precision, quality.recall)],
        "not defined" if quality.auc is None else f"{quality.auc:.4f}",
        f"{figures.latency_p50_ms:.3f}",
        f"{figures.latency_p99_ms:.3f}",
        f"{figures.peak_rss_mb:.0f}",
        figures.computes,
        result.calibration,
        "*" if result.pareto else "",
    ]
