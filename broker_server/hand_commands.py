"""``bramble-server aggregate`` and ``evaluate``: a round by hand, from files to files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from compression.command_line import Commands, command
from compression.errors import BrambleError
from compression.progress import progress_bar
from compression.text_table import text_table
from compression.weights_file import WeightsFile, read_weights
from edge_client.data.source import DataSource, find_source
from edge_client.files import write_atomically
from edge_client.wire.evaluation import EvaluationSums

TOGETHER = "all"


class HandError(BrambleError, ValueError):
    """Options that do not go together."""


def add_aggregate(commands: Commands) -> None:
    """Add ``aggregate``."""
    parser = command(
        commands,
        "aggregate",
        run_aggregate,
        "average update files of one round into new weights (FedAvg, by example count)",
        "bramble-server aggregate clinic-a.bin clinic-b.bin --bundle bundle/ --global bundle/weights.npz "
        "--out round1.npz",
    )
    parser.add_argument("updates", type=Path, nargs="+", metavar="UPDATE", help="of `bramble-edge train`")
    _add_model(parser)
    parser.add_argument(
        "--global",
        dest="weights",
        type=Path,
        required=True,
        metavar="NPZ",
        help="the weights that all sites began from",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="NPZ", help="the new weights")


def add_evaluate(commands: Commands) -> None:
    """Add ``evaluate``."""
    parser = command(
        commands,
        "evaluate",
        run_evaluate,
        "how weights do on examples, site by site: accuracy, precision, recall, F1, AUC, confusion",
        "bramble-server evaluate round1.npz --bundle bundle/ --data clinic-a=scans-a --data clinic-b=scans-b",
    )
    parser.add_argument("weights", type=Path, metavar="NPZ", help="of `aggregate`, or a bundle's first")
    _add_model(parser)
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="[SITE=]PATH",
        help="a folder by class, an npz, a table, or KIND:PATH; may be repeated",
    )
    parser.add_argument("--labels", type=Path, metavar="CSV", help="of path and label, for pictures in PATH")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="PATH",
        help="as `bramble-compress trainable` made it (default: the folder of the weights)",
    )


def run_aggregate(arguments: argparse.Namespace) -> int:
    """Average and write; 0."""
    from broker_server.by_hand import aggregate_files

    known = read_weights(arguments.weights)
    with progress_bar() as report:
        made = aggregate_files(arguments.updates, known.weights, _bundle(arguments), report=report)
    write_atomically(arguments.out, WeightsFile(dict(made.weights), known.source).to_bytes(), mode=0o644)
    sites = {name: header.training for name, header in made.sites.items()}
    if arguments.json:
        plain = {"file": str(arguments.out), "sites": {name: asdict(each) for name, each in sites.items()}}
        print(json.dumps(plain, indent=2))
        return 0
    total = sum(training.examples for training in sites.values())
    rows = [
        [name, str(each.examples), f"{each.examples / total:.3f}", str(each.steps), f"{each.loss:.3f}"]
        for name, each in sites.items()
    ]
    print(text_table(["site", "examples", "weight", "steps", "loss"], rows))
    print(f"\n{arguments.out}: the mean of {len(sites)} updates")
    return 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate and print; 0."""
    from broker_server.by_hand import evaluate_sites
    from edge_client.by_hand import extractor_beside

    if arguments.labels is not None and len(arguments.data) > 1:
        raise HandError("--labels goes with one --data; write csv:FILE for several sites")
    bundle = _bundle(arguments)
    extractor = extractor_beside(_bundle_path(arguments))
    sites = _sites(arguments.data, arguments.labels)
    with progress_bar() as report:
        results = evaluate_sites(
            read_weights(arguments.weights).weights, bundle, sites, extractor=extractor, report=report
        )
    if len(results) > 1:
        results[TOGETHER] = reduce(add, results.values())
    classes = bundle.spec.classes
    if arguments.json:
        print(
            json.dumps([{"site": name, **facts(sums, classes)} for name, sums in results.items()], indent=2)
        )
    else:
        print(evaluation_text(results, classes))
    return 0


def _bundle(arguments: argparse.Namespace) -> Any:
    from edge_client.by_hand import BUNDLE_FILE, read_bundle_file

    path = _bundle_path(arguments)
    if path.is_dir() and not (path / BUNDLE_FILE).exists():
        raise HandError(f"no {BUNDLE_FILE} in {path}: give --bundle")
    return read_bundle_file(path)


def _bundle_path(arguments: argparse.Namespace) -> Path:
    path: Path = arguments.bundle or arguments.weights.parent
    return path


def _sites(texts: list[str], labels: Path | None) -> dict[str, DataSource]:
    sites: dict[str, DataSource] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or "/" in name:  # no name, or a path with an equals sign in it
            name, path = Path(text.partition(":")[2] or text).name, text
        if name in sites or name == TOGETHER:
            raise HandError(f"two sites named {name!r}: write NAME={path}")
        sites[name] = find_source(path, labels)
    return sites


def facts(sums: EvaluationSums, classes: tuple[str, ...]) -> dict[str, Any]:
    """What follows from counts, for machines; the confusion matrix by true class, then predicted class."""
    figures: dict[str, Any] = {
        "examples": sums.examples,
        "accuracy": sums.accuracy,
        "precision": sums.precision,
        "recall": sums.recall,
        "f1": sums.f1,
        "auc": sums.auc,
        "loss": sums.loss,
    }
    if len(classes) == 2:
        names = ("true_negatives", "false_positives", "false_negatives", "true_positives")
        return figures | {"positive": classes[1]} | dict(zip(names, sums.confusion, strict=True))
    size = len(classes)
    rows = [sums.confusion[start : start + size] for start in range(0, size * size, size)]
    matrix = {name: dict(zip(classes, row, strict=True)) for name, row in zip(classes, rows, strict=True)}
    return figures | {"confusion": matrix}


def evaluation_text(results: Mapping[str, EvaluationSums], classes: tuple[str, ...]) -> str:
    """A line a site; for two classes with the four counts."""
    columns = ["site", "examples", "accuracy", "precision", "recall", "F1", "AUC", "loss"]
    rows = [
        [name, str(s.examples), *map(_figure, (s.accuracy, s.precision, s.recall, s.f1, s.auc, s.loss))]
        for name, s in results.items()
    ]
    if len(classes) != 2:
        return text_table(columns, rows)
    for row, sums in zip(rows, results.values(), strict=True):
        row += [str(count) for count in sums.confusion]
    return f"{text_table([*columns, 'TN', 'FP', 'FN', 'TP'], rows)}\n\npositive: {classes[1]}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
