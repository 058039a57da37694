"""A run's events as named numbers: the same names in every tracker."""

from __future__ import annotations

from broker_server.report.observer import ReleaseResult, RoundFinished, UpdateReceived

Metrics = dict[str, float]


def of_round(event: RoundFinished) -> Metrics:
    """A round's figures; what was not measured is left out."""
    figures = event.figures
    values = {
        "round/accuracy": figures.accuracy,
        "round/loss": figures.loss,
        "round/auc": figures.auc,
        "round/accuracy_on_devices": figures.federated_accuracy,
        "round/clients": len(figures.clients),
        "round/dropped": len(figures.dropped),
        "round/bytes_up": figures.bytes_up,
        "round/bytes_down": figures.bytes_down,
        "round/seconds": figures.seconds,
    }
    return {name: float(value) for name, value in values.items() if value is not None}


def of_update(event: UpdateReceived) -> Metrics:
    """One device's part in a round."""
    values = {
        "examples": event.examples,
        "bytes_up": event.bytes_up,
        "loss": event.loss,
        "seconds": event.seconds,
    }
    return {f"{event.device}/{name}": float(value) for name, value in values.items() if value is not None}


def of_release(event: ReleaseResult) -> Metrics:
    """What a device found of the released model."""
    values = {"release_accuracy": event.accuracy, "release_latency_p50_ms": event.latency_p50_ms}
    return {f"{event.device}/{name}": float(value) for name, value in values.items() if value is not None}
