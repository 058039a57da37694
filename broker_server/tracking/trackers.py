"""The trackers that the settings ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from broker_server.config import ServerConfig
from broker_server.report.observer import Observers, RunObserver
from broker_server.tracking.mlflow import MlflowObserver
from broker_server.tracking.tensorboard import TensorBoardObserver
from compression.records import to_plain


@contextmanager
def tracked(config: ServerConfig, observer: RunObserver) -> Iterator[RunObserver]:
    """An observer that tells the given one and every tracker; they are closed at the end.

    Raises:
        TrackingError: a tracker cannot be had.
    """
    tracking = config.tracking
    with ExitStack() as stack:
        observers = [observer]
        if tracking.tensorboard is not None:
            board = TensorBoardObserver(Path(tracking.tensorboard))
            stack.callback(board.close)
            observers.append(board)
        if tracking.mlflow is not None:
            client = MlflowObserver(tracking.mlflow, config.fleet, parameters_of(config), Path(config.state))
            stack.callback(client.close)
            observers.append(client)
        yield observer if len(observers) == 1 else Observers(observers)


def parameters_of(config: ServerConfig) -> dict[str, str]:
    """The settings of the training, flat; no paths, no names of machines."""
    plain = to_plain(config)
    return {
        name: value
        for section in ("model", "rounds", "strategy", "cohort", "codec")
        for name, value in _flat(plain[section], f"{section}.").items()
    }


def _flat(plain: Mapping[str, Any], prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = str(value)
    return found
