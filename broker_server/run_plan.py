"""What the settings come to: the stages of a run, the training that its tasks ask for, the run in words."""

from __future__ import annotations

from broker_server.config import ModelConfig, ServerConfig, calibrates_on_devices, shown_name
from broker_server.rounds.machine import Stage
from compression.records import dumps
from compression.sparsity import sparsity_after
from edge_client.wire.rounds import TrainingPlan


def stages_of(config: ServerConfig) -> tuple[Stage, ...]:
    """All stages of a run."""
    rounds = config.rounds
    first = (Stage("statistics"),) if config.model.kind == "table" else ()
    training = tuple(Stage("train", number) for number in range(1, rounds.rounds + 1))
    last = (Stage("finetune", rounds.rounds),) if rounds.fine_tune_epochs else ()
    ranges = (Stage("calibrate", rounds.rounds),) if calibrates_on_devices(config) else ()
    return (*first, *training, Stage("evaluate", rounds.rounds), *last, *ranges)


def training_plan(config: ServerConfig, stage: Stage, codec: str) -> TrainingPlan | None:
    """What a stage's task asks to be trained, and how that is coded; None if it asks for no training."""
    if stage.kind not in ("train", "finetune"):
        return None
    rounds, federated = config.rounds, stage.kind == "train"
    return TrainingPlan(
        epochs=rounds.epochs if federated else rounds.fine_tune_epochs,
        learning_rate=rounds.learning_rate,
        codec=codec,
        balance=rounds.balance,
        seed=config.model.seed,
        proximal_mu=config.strategy.proximal_mu if federated else 0.0,
        keep_zeros=config.model.sparsity > 0,
    )


def in_words(config: ServerConfig) -> str:
    """What must stay the same from the first start of a run to its end, in words for people."""
    model, rounds = config.model, config.rounds
    size = f" {model.height}x{model.width}x{model.channels}" if model.kind == "image" else ""
    strategy = dumps(config.strategy).decode()
    return (
        f"{shown_name(model.name)}, {model.kind}{size}, {rounds.rounds} rounds, {model.optimizer}, "
        f"seed {model.seed}, strategy {strategy}{_constraints(model)}"
    )


def _constraints(model: ModelConfig) -> str:
    return "".join(f", {name} {words}" for name, words in constraints_in_words(model).items())


def constraints_in_words(model: ModelConfig) -> dict[str, str]:
    """What the weights are held to while they are trained, for the report; nothing where it is nothing."""
    words = {}
    if model.sparsity:
        until = "" if model.sparsity_schedule == "constant" else f" to {model.sparsity_end:g}"
        when = f"from {model.sparsity_start:g}{until} of the rounds"
        words["sparsity"] = f"{model.sparsity:g}, {model.sparsity_schedule} {when}"
    if model.fake_int8:
        words["fake quantisation"] = "int8"
    return words


def sparsity_of(config: ServerConfig, round_number: int) -> float | None:
    """Share of the kernels' weights that is zero after a round; None where the run does not prune."""
    model = config.model
    if not model.sparsity:
        return None
    return sparsity_after(
        round_number,
        config.rounds.rounds,
        model.sparsity,
        model.sparsity_schedule,
        model.sparsity_start,
        model.sparsity_end,
    )
