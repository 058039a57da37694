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
from compression.text_table import bytes_text, text_table
from compression.tf import quiet, tensorflow

BATCH = 16
CLASSES = ("no", "yes")


@dataclass(frozen=True, slots=True)
class ZooRow:
    """One model for two classes, compiled at its usual input.

    Attributes:
        parameters: numbers that are trained or travel; of a transfer model its head's.
        extractor_bytes: of a transfer model's frozen part, which each device fetches once; else 0.
        peak_rss_mb: planned peak of a process that runs the extractor, if there is one, and then trains
            batches of 16, by runtime, in 10^6 bytes.
    """

    name: str
    input: tuple[int, ...]
    parameters: int
    bundle_bytes: int
    extractor_bytes: int
    peak_rss_mb: Mapping[str, float]
    summary: str


def zoo_rows(names: Sequence[str] = (), report: Report | None = None) -> Iterator[ZooRow]:
    """Compile models and plan their memory; nothing is downloaded.

    Args:
        names: which; none means all that are trained whole. A transfer model's backbone gets random weights,
            which changes neither sizes nor memory, so what follows its name (``@FILE``) is not looked at;
            converting it takes a minute or more.
        report: told what is being compiled.

    Raises:
        ModelError: there is no such model.
    """
    known = {**MODELS, **TRANSFER}
    plain = [name.partition("@")[0] for name in names]
    if unknown := [name for name in plain if name not in known]:
        raise ModelError(f"unknown model {unknown[0]!r}: use one of {', '.join(known)}")
    tensorflow()
    entries = [known[name] for name in plain or MODELS]
    for place, entry in enumerate(entries):
        if report is not None:
            report(f"compiling {entry.name}", place / len(entries))
        with quiet():
            yield _row(entry)


def _row(entry: ModelEntry) -> ZooRow:
    from compression.models.extraction_plan import plan_extraction  # after TensorFlow
    from compression.models.extractor import export_extractor
    from compression.trainable import compile_trainable
    from compression.trainable.plan import plan_memory

    frozen, model = _parts(entry)
    bundle = compile_trainable(
        model,
        name=entry.name,
        input=input_of(model.input_shape[1:]),
        classes=CLASSES,
        loss=default_loss(model),
        batch_size=BATCH,
    ).bundle
    plan = plan_memory(bundle)
    extraction = None if frozen is None else plan_extraction(export_extractor(frozen).tflite)
    return ZooRow(
        name=entry.name,
        input=entry.default_input,
        parameters=bundle.spec.parameters,
        bundle_bytes=len(bundle.to_bytes()),
        extractor_bytes=extraction.file_bytes if extraction else 0,
        peak_rss_mb=extraction.before(plan) if extraction else dict(plan.peak_rss_mb),
        summary=entry.summary,
    )


def _parts(entry: ModelEntry) -> tuple[Any | None, Any]:
    """What is frozen, if anything, and what is trained."""
    if entry.name not in TRANSFER:
        return None, build_model(entry.name, entry.default_input, len(CLASSES))
    from compression.models.cutting import parts

    frozen, head = parts(build_model(f"{entry.name}@{RANDOM}", entry.default_input, len(CLASSES)))
    return frozen, head


def zoo_text(rows: list[ZooRow]) -> str:
    """A line a model."""
    runtimes = list(rows[0].peak_rss_mb)
    lines = [
        [
            row.name,
            row.summary,
            "x".join(str(extent) for extent in row.input),
            f"{row.parameters:,}",
            bytes_text(row.extractor_bytes) if row.extractor_bytes else "-",
            *[f"{row.peak_rss_mb[runtime]:.0f} MB" for runtime in runtimes],
        ]
        for row in rows
    ]
    heads = ["name", "", "input", "parameters", "extractor", *[f"memory, {name}" for name in runtimes]]
    return text_table(heads, lines, left=(0, 1))


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
        help=f"which (default: {', '.join(MODELS)}); {', '.join(TRANSFER)}: extractor and head",
    )


def _zoo(arguments: argparse.Namespace) -> int:
    with progress_bar() as report:
        rows = list(zoo_rows(arguments.names, report))
    print(json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else zoo_text(rows))
    return 0
