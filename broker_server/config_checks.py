"""What settings of the server cannot hold together, with the reason. `broker_server.config` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_server.cohort.everyone import Everyone
from broker_server.strategies.fedbuff import FedBuff
from broker_server.strategies.fedper import FedPer
from compression.records import RecordError
from compression.spec import Augmentation

if TYPE_CHECKING:
    from broker_server.config import ServerConfig


def check_settings(config: ServerConfig, *, transfer: bool) -> None:
    """Raise `RecordError` for settings of which one makes another impossible.

    Args:
        transfer: whether the model is a transfer model.
    """
    _check_numbers(config)
    _check_strategy(config)
    if transfer:
        _check_transfer(config)
    _check_calibration(config)
    _check_constraints(config, transfer=transfer)


def _check_numbers(config: ServerConfig) -> None:
    model, rounds = config.model, config.rounds
    if model.micro_batch is not None and model.batch_size % model.micro_batch:
        raise RecordError(
            f"ServerConfig: model.micro_batch ({model.micro_batch}) does not divide "
            f"model.batch_size ({model.batch_size})"
        )
    if rounds.wait_for < rounds.quorum:
        raise RecordError(
            f"ServerConfig: rounds.wait_for ({rounds.wait_for}) is less than rounds.quorum ({rounds.quorum})"
        )


def _check_strategy(config: ServerConfig) -> None:
    """Raise `RecordError` for what cannot hold together, with the reason."""
    strategy, size = config.strategy, config.cohort.size
    if problem := strategy.problem(config.model.optimizer):
        raise RecordError(f"ServerConfig: {problem}")
    if isinstance(strategy, FedPer) and config.release.enabled:
        raise RecordError(
            "ServerConfig: with strategy fedper the last layers stay on the devices, so there is no model to "
            "release: set release.enabled = false"
        )
    if strategy.BUFFERED and config.cohort != Everyone():
        raise RecordError(
            f"ServerConfig: strategy {strategy.TAG} asks every device that is free: leave [cohort] out"
        )
    if strategy.CONTROL and config.rounds.late == "weigh":
        raise RecordError(
            f"ServerConfig: strategy {strategy.TAG} cannot weigh late results, their control variates belong "
            "to an older fleet's: set rounds.late = 'drop'"
        )
    enough = strategy.buffer if isinstance(strategy, FedBuff) else size
    if enough is not None and enough < config.rounds.quorum:
        raise RecordError(
            f"ServerConfig: a round ends with {enough} results, less than rounds.quorum "
            f"({config.rounds.quorum})"
        )


def _check_transfer(config: ServerConfig) -> None:
    if config.model.kind != "image":
        raise RecordError(f"ServerConfig: {config.model.name} takes pictures: set model.kind = 'image'")
    if config.model.augmentation != Augmentation():
        raise RecordError(
            f"ServerConfig: {config.model.name} is trained on features that are made once a picture: leave "
            "[model.augmentation] out"
        )


def _check_calibration(config: ServerConfig) -> None:
    if config.release.calibration == "server" and not (config.data.calibration or config.data.evaluation):
        raise RecordError(
            "ServerConfig: release.calibration = 'server' needs examples here: set data.calibration, or take "
            "'federated'"
        )


def _check_constraints(config: ServerConfig, *, transfer: bool) -> None:
    """Raise `RecordError` where what is trained would not be what is shipped."""
    model, release = config.model, config.release
    if model.fake_int8 and release.enabled and release.recipe != "int8":
        raise RecordError(
            f"ServerConfig: model.fake_int8 trains for an int8 file, and release.recipe is {release.recipe!r}"
        )
    if model.sparsity_start >= model.sparsity_end:
        raise RecordError(
            f"ServerConfig: model.sparsity_start ({model.sparsity_start:g}) is not before model.sparsity_end "
            f"({model.sparsity_end:g})"
        )
    if model.sparsity and isinstance(config.strategy, FedPer):
        raise RecordError(
            "ServerConfig: with strategy fedper the last layers stay on the devices, where model.sparsity "
            "cannot prune them: leave one of the two out"
        )
    if (model.sparsity or model.fake_int8) and transfer:
        raise RecordError(
            f"ServerConfig: of {model.name} the devices train the head alone, so model.sparsity and "
            "model.fake_int8 would leave nearly all of it as it is: leave them out"
        )
