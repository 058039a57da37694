"""``bramble-server zoo``: the built-in models, and what training each takes on a device."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from broker_server.models import MODELS, RANDOM, TRANSFER, ModelEntry, ModelError, build_model
from compression.command_line import Commands, command
from compression.commands import default_loss, input_of
from compression.progress import Report, progress_bar
from compression.text_table import text_table
from compression.tf import quiet, tensorflow

BATCH = 16
CLASSES = ("no", "yes")


@dataclass(frozen=True, slots=True)
class ZooRow:
    """One model for two classes, compiled at its usual input.

    Attributes:
        parameters: numbers that are trained or travel; of a transfer model its head's.
        peak_rss_mb: planned peak of a process that trains batches of 16, by runtime, in 10^6 bytes.
    """

    name: str
    input: tuple[int, ...]
    parameters: int
    bundle_bytes: int
    peak_rss_mb: Mapping[str, float]
    summary: str


def zoo_rows(names: Sequence[str] = (), report: Report | None = None) -> Iterator[ZooRow]:
    """Compile models and plan their memory; nothing is downloaded.

    Args:
        names: which; none means all that are trained whole. Of a transfer model the head is planned, behind
            a backbone of random weights, which changes neither sizes nor memory.
        report: told what is being compiled.

    Raises:
        ModelError: there is no such model.
    """
    known = {**MODELS, **TRANSFER}
    if unknown := [name for name in names if name not in known]:
        raise ModelError(f"unknown model {unknown[0]!r}: use one of {', '.join(known)}")
    tensorflow()
    entries = [known[name] for name in names or MODELS]
    for place, entry in enumerate(entries):
        if report is not None:
            report(f"compiling {entry.name}", place / len(entries))
        with quiet():
            yield _row(entry)


def _row(entry: ModelEntry) -> ZooRow:
    from compression.trainable import compile_trainable  # after TensorFlow
    from compression.trainable.plan import plan_memory

    model = _trained_part(entry)
    bundle = compile_trainable(
        model,
        name=entry.name,
        input=input_of(model.input_shape[1:]),
        classes=CLASSES,
        loss=default_loss(model),
        batch_size=BATCH,
    ).bundle
    return ZooRow(
        name=entry.name,
        input=entry.default_input,
        parameters=bundle.spec.parameters,
        bundle_bytes=len(bundle.to_bytes()),
        peak_rss_mb=dict(plan_memory(bundle).peak_rss_mb),
        summary=entry.summary,
    )


def _trained_part(entry: ModelEntry) -> Any:
    if entry.name not in TRANSFER:
        return build_model(entry.name, entry.default_input, len(CLASSES))
    from compression.models.cutting import parts

    return parts(build_model(f"{entry.name}@{RANDOM}", entry.default_input, len(CLASSES)))[1]


def zoo_text(rows: list[ZooRow]) -> str:
    """A line a model."""
    runtimes = list(rows[0].peak_rss_mb)
    lines = [
        [
            row.name,
            row.summary,
            "x".join(str(extent) for extent in row.input),
            f"{row.parameters:,}",
            *[f"{row.peak_rss_mb[runtime]:.0f} MB" for runtime in runtimes],
        ]
        for row in rows
    ]
    heads = ["name", "", "input", "parameters", *[f"memory, {name}" for name in runtimes]]
    return text_table(heads, lines)


def add_zoo(commands: Commands) -> None:
    """The command."""
    parser = command(
        commands,
        "zoo",
        _zoo,
        "the built-in models: input, parameters, and a device's memory while it trains batches of 16",
        "bramble-server zoo",
        "bramble-server zoo small_cnn mobilenet_v2 --json",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which (default: {', '.join(MODELS)}); {', '.join(TRANSFER)}: what is trained of them",
    )


def _zoo(arguments: argparse.Namespace) -> int:
    with progress_bar() as report:
        rows = list(zoo_rows(arguments.names, report))
    print(json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else zoo_text(rows))
    return 0
