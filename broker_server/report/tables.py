"""The tables of a report as rows of words, before any view gives them a form.

A column in which nothing was measured is left out and named in the note under the table, so that a run
without, say, an AUC does not fill a terminal with "not measured".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import pstdev
from typing import Generic, TypeVar

from broker_server.report import words
from broker_server.report.devices import ClientFigures
from broker_server.report.fields import LatencyFigures
from broker_server.report.rounds import RoundFigures
from broker_server.report.schema import RunReport

Row = TypeVar("Row")
SAME = "same"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table ready to be drawn; the first column names the row."""

    title: str
    headers: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """How one column is made of a row's value; `brief` ones are all that a terminal shows."""

    header: str
    cell: Callable[[Row], str]
    numeric: bool = True
    brief: bool = True


def _grid(
    title: str, columns: Sequence[Column[Row]], rows: Sequence[Row], *, brief: bool, note: str = ""
) -> Grid:
    asked = [column for column in columns if column.brief or not brief]
    cells = {column.header: [column.cell(row) for row in rows] for column in asked}
    kept = [c for c in asked if any(cell != words.NOT_MEASURED for cell in cells[c.header])]
    absent = [column.header for column in asked if column not in kept] if rows else []
    notes = [note, f"Not measured: {', '.join(absent)}." if absent else ""]
    return Grid(
        title=title,
        headers=tuple(column.header for column in kept),
        numeric=tuple(column.numeric for column in kept),
        rows=tuple(tuple(cells[column.header][index] for column in kept) for index in range(len(rows))),
        note=" ".join(part for part in notes if part),
    )


def spread(items: Sequence[Row], most: int) -> tuple[Row, ...]:
    """Every item, or every second, third ... and the last, so that about `most` are left."""
    step = max(1, math.ceil((len(items) - 1) / max(1, most - 1)))
    return tuple(item for index, item in enumerate(items) if index % step == 0 or index == len(items) - 1)


_ROUNDS: tuple[Column[RoundFigures], ...] = (
    Column("Round", lambda r: str(r.round)),
    Column("Accuracy", lambda r: words.share(r.accuracy)),
    Column("Loss", lambda r: words.loss(r.loss)),
    Column("AUC", lambda r: words.share(r.auc)),
    Column("On devices", lambda r: words.share(r.federated_accuracy)),
    Column("Counted", lambda r: f"{len(r.clients)} of {len(r.clients) + len(r.dropped)}"),
    Column("Up", lambda r: words.size(r.bytes_up)),
    Column("Down", lambda r: words.size(r.bytes_down)),
    Column("Time", lambda r: words.seconds(r.seconds)),
    Column(
        "Not counted",
        lambda r: _reasons(r.dropped),
        numeric=False,
        brief=False,
    ),
)
_SELECTION: tuple[Column[RoundFigures], ...] = (
    Column("Asked because", lambda r: _reasons(r.chosen), numeric=False, brief=False),
    Column("Not asked because", lambda r: _reasons(r.passed), numeric=False, brief=False),
    Column("Not needed", lambda r: ", ".join(r.released) or "-", numeric=False, brief=False),
)
_SPARSITY: tuple[Column[RoundFigures], ...] = (Column("Zeros", lambda r: words.share(r.sparsity)),)
_ON_DEVICES = "On devices: accuracy on their own validation examples, of the round's new weights."


def _reasons(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "-"


def rounds_grid(report: RunReport, *, most: int | None = None) -> Grid:
    """One row a round; with `most` the columns of a terminal and at most so many rows."""
    shown = report.rounds if most is None else spread(report.rounds, most)
    left_out = len(report.rounds) - len(shown)
    cut = f"{words.plural(left_out, 'round')} between these not shown. " if left_out else ""
    pruned = any(r.sparsity is not None for r in report.rounds)
    return _grid(
        "Every round" if most is None else "Rounds",
        _ROUNDS
        + (_SPARSITY if pruned else ())
        + (_SELECTION if any(r.chosen for r in report.rounds) else ()),
        shown,
        brief=most is not None,
        note=cut + _ON_DEVICES + (" Zeros: share of the kernels' weights." if pruned else ""),
    )


_DEVICES: tuple[Column[ClientFigures], ...] = (
    Column("Device", lambda c: c.name, numeric=False),
    Column("Training", lambda c: words.count(c.training_examples if c.examples else None)),
    Column("Validation", lambda c: words.count(c.validation_examples)),
    Column("Skipped", lambda c: words.count(c.skipped), brief=False),
    Column("Rounds", lambda c: words.count(c.rounds)),
    Column("Sent", lambda c: words.size(c.bytes_up)),
    Column("Received", lambda c: words.size(c.bytes_down)),
    Column("Peak memory", lambda c: words.megabytes(c.peak_rss_mb)),
    Column("TensorFlow", lambda c: words.yes_no(c.imports_tensorflow), numeric=False, brief=False),
    Column("Runtime", lambda c: words.word(c.runtime), numeric=False, brief=False),
    Column("Processor", lambda c: words.word(c.architecture), numeric=False, brief=False),
    Column("Board", lambda c: words.word(c.board), numeric=False, brief=False),
)


_TUNED: tuple[Column[ClientFigures], ...] = (
    Column("Fleet's model", lambda c: words.share(c.fleet_accuracy)),
    Column("Own model", lambda c: words.share(c.tuned_accuracy)),
)
_OWN_MODEL = (
    "Fleet's model and own model: accuracy on the device's own validation examples, before and after it "
    "trained on alone."
)


def clients_grid(report: RunReport, *, most: int | None = None) -> Grid:
    """One row a device; with `most` the columns of a terminal and at most so many rows."""
    shown = report.clients[:most]
    tuned = any(client.tuned_accuracy is not None for client in report.clients)
    return _grid(
        "Data, traffic and memory of the devices",
        _DEVICES + (_TUNED if tuned else ()),
        shown,
        brief=most is not None,
        note=" ".join(filter(None, [_cut(report, shown), _OWN_MODEL if tuned else ""])),
    )


def _cut(report: RunReport, shown: Sequence[ClientFigures]) -> str:
    left_out = len(report.clients) - len(shown)
    return f"{words.plural(left_out, 'more device')} not shown." if left_out else ""


_OWN: tuple[Column[ClientFigures], ...] = (
    Column("Device", lambda c: c.name, numeric=False),
    Column("Examples", lambda c: words.count(c.own.examples)),
    Column("Accuracy", lambda c: words.share(c.own.accuracy)),
    Column("Recall", lambda c: words.share(c.own.recall)),
    Column("False negatives", lambda c: words.count(c.own.false_negatives)),
    Column("False positives", lambda c: words.count(c.own.false_positives)),
    Column("AUC", lambda c: words.share(c.own.auc)),
)


def fairness_grid(report: RunReport, *, most: int | None = None) -> Grid:
    """How evenly the final weights serve the devices, the worst served first."""
    measured = [client for client in report.clients if client.own.accuracy is not None]
    order = sorted(measured, key=lambda client: (client.own.accuracy or 0.0, client.name))
    shown = order[:most]
    left_out = len(order) - len(shown)
    note = [_spread([client.own.accuracy or 0.0 for client in order])] if len(order) > 1 else []
    note += [f"{words.plural(left_out, 'better served device')} not shown."] if left_out else []
    title = "How evenly: the final weights on each device's own validation examples"
    return _grid(title, _OWN, shown, brief=most is not None, note=" ".join(note))


def _spread(accuracies: Sequence[float]) -> str:
    return (
        f"Accuracy from {min(accuracies):.3f} to {max(accuracies):.3f}, standard deviation "
        f"{pstdev(accuracies):.3f} between devices."
    )


def release_grid(report: RunReport, *, most: int | None = None) -> Grid:
    """What became of the released model on each device, and how the device did alone."""
    alone = report.local_only.accuracy
    columns: tuple[Column[ClientFigures], ...] = (
        Column("Device", lambda c: c.name, numeric=False),
        Column("Version", lambda c: words.count(c.model_version)),
        Column("Gate", lambda c: c.gate.verdict or words.NOT_MEASURED, numeric=False),
        Column("int8", lambda c: words.share(c.gate.accuracy)),
        Column("float32", lambda c: words.share(c.gate.reference_accuracy)),
        Column("Examples", lambda c: words.count(c.gate.examples), brief=False),
        Column("p50", lambda c: words.milliseconds(c.int8_latency_ms.p50)),
        Column("p99", lambda c: words.milliseconds(c.int8_latency_ms.p99)),
        Column("Alone", lambda c: words.share(alone.get(c.name))),
    )
    shown = report.clients[:most]
    reasons = [
        f"{c.name}: {c.gate.reason}." for c in shown if c.gate.reason and c.gate.verdict != "activated"
    ]
    note = " ".join([*reasons, _RELEASE_NOTE, _cut(report, shown)]).strip()
    return _grid("Released int8 model on the devices", columns, shown, brief=most is not None, note=note)


_RELEASE_NOTE = (
    "int8, float32: accuracy on the device's own validation examples. "
    "Alone: held-out accuracy of a model trained on that device only."
)


def models_grid(report: RunReport) -> Grid:
    """The federated model in both forms beside centralised and lonely training."""
    final, model, central, alone = report.final, report.model, report.centralised, report.local_only
    float32, int8 = model.float32_latency_ms, model.int8_latency_ms
    lonely = _quality(alone.accuracy_mean, alone.loss_mean, alone.auc_mean)
    full = words.size(model.float32_bytes)
    of_float32 = (full, words.milliseconds(float32.p50), words.milliseconds(float32.p99))
    of_int8 = (words.size(model.int8_bytes), words.milliseconds(int8.p50), words.milliseconds(int8.p99))
    rows = (
        ("Federated, float32", *_quality(final.accuracy, final.loss, final.auc), *of_float32),
        ("Federated, int8", *_quality(final.int8_accuracy, final.int8_loss, final.int8_auc), *of_int8),
        ("Centralised", *_quality(central.accuracy, central.loss, central.auc), full, SAME, SAME),
        ("Each client alone, mean", *lonely, full, SAME, SAME),
    )
    return Grid(
        title="Models on the held-out examples",
        headers=("Model", "Accuracy", "Loss", "AUC", "Size", "p50", "p99"),
        numeric=(False, True, True, True, True, True, True),
        rows=rows,
        note=" ".join(filter(None, [_latency_note(float32, int8), _zipped_note(report)])),
    )


def _quality(accuracy: float | None, loss: float | None, auc: float | None) -> tuple[str, str, str]:
    return words.share(accuracy), words.loss(loss), words.share(auc)


def _latency_note(*latencies: LatencyFigures) -> str:
    runs = [latency.runs for latency in latencies if latency.runs]
    of = f", of {words.plural(min(runs), 'run')} after warm-up" if runs else ""
    return f"p50, p99: time of one inference on the server's machine{of}. Same: as in the first row."


def _zipped_note(report: RunReport) -> str:
    full, small = report.model.float32_zipped_bytes, report.model.int8_zipped_bytes
    if not full or not small:
        return ""
    less = words.times(full / small)
    return f"Zipped: {words.size(full)} in float32, {words.size(small)} released, {less} less."


def traffic_grid(report: RunReport) -> Grid:
    """Bytes up and down against plain float32."""
    traffic = report.bytes
    rows = (
        ("Up", traffic.up_per_client_round, traffic.ratio_up, traffic.up_total),
        ("Down", traffic.down_per_client_round, traffic.ratio_down, traffic.down_total),
    )
    float32 = words.size(traffic.float32_per_client_round)
    return Grid(
        title="Traffic of training",
        headers=("Direction", "Each round", "As float32", "Smaller by", "Whole run"),
        numeric=(False, True, True, True, True),
        rows=tuple(
            (way, words.size(each), float32, words.times(r), words.size(t)) for way, each, r, t in rows
        ),
        note=" ".join(["Each round: mean of one device.", *([traffic.counted] if traffic.counted else [])]),
    )


def incidents_grid(report: RunReport) -> Grid:
    """What went wrong, in the order it did."""
    return Grid(
        title="What went wrong",
        headers=("After", "Who", "What happened", "How the run went on"),
        numeric=(True, False, False, False),
        rows=tuple(
            (words.seconds(i.at_s), i.who, i.what, i.survived_by or "it did not")
            for i in sorted(report.incidents, key=lambda i: i.at_s)
        ),
    )


def confusion_grid(report: RunReport) -> Grid:
    """Rows are true classes, columns predicted ones."""
    classes = report.data.classes
    matrix = report.final.confusion_matrix
    names = classes if matrix else ()
    title = "Confusion matrix"
    return _count_grid(title, ("True class", *classes), names, matrix, "Columns: predicted class.")


def examples_grid(report: RunReport) -> Grid:
    """Training examples of each class on each device."""
    classes = report.data.classes
    counts = [[client.examples.get(name, 0) for name in classes] for client in report.clients]
    names = [client.name for client in report.clients]
    return _count_grid("Training examples by class", ("Device", *classes), names, counts)


def _count_grid(
    title: str,
    headers: tuple[str, ...],
    names: Sequence[str],
    counts: Sequence[Sequence[int]],
    note: str = "",
) -> Grid:
    if not any(map(any, counts)):
        return Grid(title, (), (), (), words.NOT_MEASURED)
    rows = tuple((name, *map(words.count, row)) for name, row in zip(names, counts, strict=True))
    return Grid(title, headers, (False, *(True for _ in headers[1:])), rows, note)


def facts(report: RunReport) -> tuple[tuple[str, str], ...]:
    """How the run was made: names and values."""
    data, model, place = report.data, report.model, report.environment
    memory = None if place.memory_mb is None else place.memory_mb * 1_000_000
    return (
        ("Data", data.description or report.dataset),
        ("Examples", f"{data.training_examples:,} for training, {data.held_out_examples:,} held out"),
        ("Partition", words.word(data.partition)),
        ("Model", f"{model.name}, {model.parameters:,} parameters"),
        ("int8 calibration", words.word(model.int8_calibration)),
        ("Broker", report.broker),
        *report.settings.items(),
        ("Started", words.word(report.started)),
        ("Processor", words.word(place.processor)),
        ("Architecture", words.word(place.architecture)),
        ("Cores", words.count(place.cores)),
        ("Memory", words.size(memory)),
        ("System", words.word(place.system)),
        ("Python", words.word(place.python)),
        *place.packages.items(),
    )
