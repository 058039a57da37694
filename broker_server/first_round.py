"""The plan of a fleet's first round, before anything is started: ``--dry-run`` of ``init`` and ``run``.

The model is really compiled and an update really coded, so bytes and memory are those of the round; what
depends on devices that have not said hello is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from broker_server.codec_control import choose_codec
from broker_server.config import ServerConfig, is_transfer_name, shown_name
from broker_server.program import compile_program, image_input
from broker_server.run_plan import constraints_in_words
from broker_server.transfer import compile_transfer
from compression.spec import ModelSpec, TrainableBundle
from compression.text_table import bytes_text
from compression.updates import PROFILES, encode_update, pack_model

SUPPOSED = ("negative", "positive")  # classes, where only the devices know theirs
SPREAD = 1e-3  # of the made-up update: what bytes cost does not depend on it


@dataclass(frozen=True, slots=True)
class ProgramPlan:
    """What is sent and what it takes on a device.

    Attributes:
        once_bytes: training program, first weights and extractor, to each device once.
        up_bytes: an update of the first round, measured on made-up values.
        peak_rss_mb: predicted for the device's process, by runtime.
    """

    parameters: int
    once_bytes: int
    extractor_bytes: int
    up_bytes: int
    float32_bytes: int
    peak_rss_mb: dict[str, float]


@dataclass(frozen=True, slots=True)
class FirstRound:
    """What would happen; `program` is None while it cannot be compiled."""

    fleet: str
    model: str
    classes: tuple[str, ...]  # empty: those that the devices have
    strategy: str
    cohort: str
    codec_up: str
    codec_down: str
    wait_for: int
    wait_s: float
    quorum: int
    deadline_s: float
    epochs: int
    learning_rate: float
    batch_size: int
    weights: dict[str, str]  # what they are held to; empty: nothing
    program: ProgramPlan | None


def plan_first_round(config: ServerConfig) -> FirstRound:
    """Compile and code; nothing is written and nobody is asked.

    Raises:
        ModelError, TrainableError: the model cannot be had or trained.
    """
    rounds, model = config.rounds, config.model
    return FirstRound(
        fleet=config.fleet,
        model=shown_name(model.name),
        classes=model.classes,
        strategy=config.strategy.TAG,
        cohort=config.cohort.TAG,
        codec_up=choose_codec(config.codec.up, ()),
        codec_down=choose_codec(config.codec.down, ()),
        wait_for=rounds.wait_for,
        wait_s=rounds.wait_s,
        quorum=rounds.quorum,
        deadline_s=rounds.deadline_s,
        epochs=rounds.epochs,
        learning_rate=rounds.learning_rate,
        batch_size=model.batch_size,
        weights=constraints_in_words(model),
        program=_plan_program(config) if model.kind == "image" else None,
    )


def _plan_program(config: ServerConfig) -> ProgramPlan:
    input, classes = image_input(config.model), config.model.classes or SUPPOSED
    extractor = b""
    if is_transfer_name(config.model.name):
        made = compile_transfer(config.model, input, classes)
        bundle, weights, extractor = made.bundle, made.weights, made.extractor
    else:
        bundle, weights = compile_program(config.model, input, classes)
    from compression.models.extraction_plan import plan_extraction  # after TensorFlow was loaded quietly
    from compression.trainable.plan import plan_memory

    plan = plan_memory(bundle)
    shared = bundle.spec.without(config.strategy.personal(bundle.spec))
    return ProgramPlan(
        parameters=bundle.spec.parameters,
        extractor_bytes=len(extractor),
        once_bytes=len(bundle.to_bytes()) + len(pack_model(weights)) + len(extractor),
        up_bytes=_update_bytes(bundle, shared, choose_codec(config.codec.up, ())),
        float32_bytes=4 * shared.parameters,
        peak_rss_mb=plan_extraction(extractor).before(plan) if extractor else dict(plan.peak_rss_mb),
    )


def _update_bytes(bundle: TrainableBundle, shared: ModelSpec, codec: str) -> int:
    rng = np.random.default_rng(0)
    delta = {
        t.name: np.float32(SPREAD) * rng.standard_t(4, t.shape).astype(np.float32) for t in shared.tensors
    }
    encoded = encode_update(
        delta, PROFILES[codec], model_digest=bundle.digest, round_number=1, tensors=shared.tensors
    )
    return len(encoded.payload)


def first_round_text(plan: FirstRound) -> str:
    """The plan for people."""
    classes = ", ".join(plan.classes) or "those that the devices have"
    lines = [
        ("fleet", plan.fleet),
        ("model", f"{plan.model}; classes: {classes}"),
        ("begins", f"with {plan.wait_for} devices, or {plan.quorum} after {plan.wait_s:g} s"),
        ("asked", "everyone" if plan.cohort == "all" else f"by rule {plan.cohort}"),
        (
            "training",
            f"{plan.epochs} epochs, batches of {plan.batch_size}, learning rate {plan.learning_rate:g}, "
            f"{plan.strategy}",
        ),
        *([("weights", "; ".join(map(" ".join, plan.weights.items())))] if plan.weights else []),
        ("closes", f"when all have answered; after {plan.deadline_s:g} s at the latest"),
        *_program_lines(plan),
    ]
    return "\n".join(f"{name:10} {words}" for name, words in lines)


def _program_lines(plan: FirstRound) -> Sequence[tuple[str, str]]:
    program = plan.program
    if program is None:
        return [("program", "compiled when the devices have said which columns they have")]
    memory = ", ".join(f"{peak:.0f} MB ({runtime})" for runtime, peak in program.peak_rss_mb.items())
    times = program.float32_bytes / program.up_bytes
    return [
        (
            "once",
            f"{bytes_text(program.once_bytes)} to each device: program and first weights{_too(program)}",
        ),
        ("down", f"nothing in round 1; then steps coded by {plan.codec_down}"),
        (
            "up",
            f"about {bytes_text(program.up_bytes)} from each device by {plan.codec_up}, "
            f"{times:.0f} times less than float32 ({program.parameters:,} parameters)",
        ),
        ("memory", f"of a device's process, predicted: {memory}"),
    ]


def _too(program: ProgramPlan) -> str:
    return f", extractor of {bytes_text(program.extractor_bytes)}" if program.extractor_bytes else ""
