"""Memory of a model's training before anything is deployed: whole batches, and micro-batches beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compression.commands import CommandError, default_loss, input_of
from compression.references import load_reference
from compression.spec import Loss, Optimizer
from compression.text_table import text_table
from compression.tf import quiet, tensorflow

if TYPE_CHECKING:
    from compression.trainable.plan import MemoryPlan

MICRO_BATCHES = (8, 4, 2)
SMALLEST_DEVICE_MB = 512 * 2**20 / 1e6  # Raspberry Pi Zero 2 W


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The choices that there are.

    Attributes:
        whole_batch_layer: the layer that rules micro-batches out; None if nothing does.
        recommended: examples in memory at a time, one of the choices'.
    """

    name: str
    parameters: int
    batch_size: int
    choices: tuple[MemoryPlan, ...]
    whole_batch_layer: str | None
    recommended: int


def plan_training(
    reference: str,
    *,
    input_shape: Sequence[int],
    classes: Sequence[str],
    name: str | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer = "adam",
    batch_size: int = 16,
) -> TrainingPlan:
    """Compile a model in each way its batches can be split, and say what each takes.

    Raises:
        CommandError, ModelsError: the model or an option does not fit.
    """
    tensorflow()
    from compression.trainable import TrainableError, compile_trainable  # noqa: PLC0415
    from compression.trainable.network import Network  # noqa: PLC0415
    from compression.trainable.plan import auto_rows, plan_memory, worth_splitting  # noqa: PLC0415

    example = input_of(input_shape)
    model = load_reference(reference, input_shape, len(classes))

    def plan_of(rows: int) -> tuple[MemoryPlan, int]:
        result = compile_trainable(
            model,
            name=name or reference.rpartition(":")[2],
            input=example,
            classes=classes,
            loss=loss or default_loss(model),
            optimizer=optimizer,
            batch_size=batch_size,
            micro_batch=None if rows == batch_size else rows,
        )
        return plan_memory(result.bundle), result.bundle.spec.parameters

    try:
        with quiet():
            layer = Network(model).batch_statistics
            split = () if layer else {*MICRO_BATCHES, auto_rows(batch_size)}
            rows = sorted({batch_size, *(n for n in split if n < batch_size and not batch_size % n)})[::-1]
            found = [plan_of(count) for count in rows]
    except TrainableError as exc:
        raise CommandError(str(exc)) from exc
    choices = tuple(plan for plan, _ in found)
    automatic = next((plan for plan in choices if plan.rows == auto_rows(batch_size)), choices[0])
    return TrainingPlan(
        name=name or reference.rpartition(":")[2],
        parameters=found[0][1],
        batch_size=batch_size,
        choices=choices,
        whole_batch_layer=layer,
        recommended=automatic.rows if worth_splitting(choices[0], automatic) else batch_size,
    )


def plan_text(plan: TrainingPlan) -> str:
    """A line a choice, and which to take."""
    runtimes = list(plan.choices[0].peak_rss_mb)
    lines = [
        [
            _times(choice.rows, plan.batch_size),
            f"{choice.train_arena_bytes / 1e6:.1f} MB",
            f"{choice.evaluate_arena_bytes / 1e6:.1f} MB",
            *[f"{choice.peak_rss_mb[runtime]:.0f} MB" for runtime in runtimes],
        ]
        for choice in plan.choices
    ]
    heads = ["examples", "training arena", "evaluation", *[f"process, {runtime}" for runtime in runtimes]]
    text = f"{plan.name}: {plan.parameters} parameters, batches of {plan.batch_size}\n"
    return f"{text}\n{text_table(heads, lines)}\n\n{advice(plan)}\n{smallest_device(plan)}"


def smallest_device(plan: TrainingPlan) -> str:
    """How much of the smallest Pi's memory the recommended way takes."""
    largest = next(choice.largest_mb for choice in plan.choices if choice.rows == plan.recommended)
    return (
        f"Of a Raspberry Pi Zero 2 W's 512 MB that is {largest / SMALLEST_DEVICE_MB:.0%}, besides the "
        "system, the agent's session and its pictures."
    )


def _times(rows: int, batch_size: int) -> str:
    return str(rows) if rows == batch_size else f"{rows} x {batch_size // rows}"


def advice(plan: TrainingPlan) -> str:
    """What to do with the choices."""
    if plan.whole_batch_layer is not None:
        return (
            f"Whole batches only: {plan.whole_batch_layer!r} is batch normalisation, whose statistics are "
            "the whole batch's.\nFor less memory take a smaller --batch, or LayerNormalization."
        )
    if plan.recommended == plan.batch_size:
        return "Whole batches: micro-batches would save next to nothing."
    saved = plan.choices[0].largest_mb - next(
        choice.largest_mb for choice in plan.choices if choice.rows == plan.recommended
    )
    return (
        f"--micro-batch {plan.recommended} is recommended (and what --micro-batch auto takes): "
        f"{saved:.0f} MB less, and the same steps."
    )
