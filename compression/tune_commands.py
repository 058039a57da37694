"""``bramble-compress tune`` as a function: measure a model's convolutions, keep the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compression.commands import CommandError, default_loss, input_of
from compression.references import load_reference
from compression.text_table import text_table
from compression.tf import quiet, tensorflow


@dataclass(frozen=True, slots=True)
class Tuned:
    """What `tune_model` measured and where the table is.

    Attributes:
        rows: for each computation its key, milliseconds by lowering, what is chosen and what the rule says.
    """

    file: str
    runtime: str
    machine: str
    rows: tuple[tuple[str, dict[str, float], str, str], ...]


def tune_model(
    reference: str,
    *,
    input_shape: Sequence[int],
    classes: Sequence[str],
    batch_size: int = 16,
    python: str | None = None,
    out: Path | None = None,
) -> Tuned:
    """Time every convolution of a model's training in each lowering; add the result to the table.

    Args:
        python: an interpreter whose TFLite runtime is meant; None is this one's.
        out: the table; None is the user's cache, where the compiler finds it by itself.

    Raises:
        CommandError, ModelsError: the model or an option does not fit, or nothing can be timed.
    """
    tensorflow()
    from compression.trainable import TrainableError, compile_trainable  # noqa: PLC0415
    from compression.trainable.rules import HotOp, rule_for  # noqa: PLC0415
    from compression.trainable.tuning import (  # noqa: PLC0415
        measure,
        read_table,
        recording,
        table_path,
        write_table,
    )

    model = load_reference(reference, input_shape, len(classes))
    found: dict[str, HotOp] = {}
    try:
        with quiet():
            compile_trainable(
                model,
                name=reference.rpartition(":")[2],
                input=input_of(input_shape),
                classes=classes,
                loss=default_loss(model),
                batch_size=batch_size,
                lowerings=recording(found),
            )
            measured = measure(found.values(), python=python)
        path = out or table_path(measured.runtime, measured.machine)
        write_table(path, read_table(path).merged(measured) if path.exists() else measured)
    except TrainableError as exc:
        raise CommandError(str(exc)) from exc
    rows = tuple(
        (key, dict(measured.ms[key]), str(measured(op)), str(rule_for(measured.runtime)(op)))
        for key, op in found.items()
    )
    return Tuned(str(path), measured.runtime, measured.machine, rows)


def tuned_text(tuned: Tuned) -> str:
    """A line a computation."""
    names = list(dict.fromkeys(name for _, ms, *_ in tuned.rows for name in ms))
    lines = [
        [
            key,
            *[f"{ms[name]:.2f} ms" if name in ms else "" for name in names],
            chosen,
            "" if chosen == rule else f"rule: {rule}",
        ]
        for key, ms, chosen, rule in tuned.rows
    ]
    heads = ["picture, kernel, strides", *names, "chosen", ""]
    return f"{tuned.runtime} on {tuned.machine}\n\n{text_table(heads, lines)}\n\nkept in {tuned.file}"
