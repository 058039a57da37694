"""How a device introduces itself: the client it runs, the machine, its data, its model."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_client import health
from edge_client.runtime import runtime_name, runtime_version
from edge_client.wire.presence import Hello
from edge_client.wire.summary import DataSummary


def hello(process: str, data: DataSummary, state: Path, model_version: int) -> Hello:
    """The device as it is now.

    Args:
        process: names this process of the client.
        data: what its examples are.
        state: its state directory, for the room on that disk.
        model_version: of the model that answers; 0 without one.
    """
    return Hello(
        session=process,
        version=_own_version(),
        architecture=health.architecture(),
        board=health.board(),
        python=platform.python_version(),
        runtime=f"{runtime_name()} {runtime_version()}",
        cores=health.cores(),
        memory_mb=health.memory_mb(),
        data=data,
        health=health.health(state),
        model_version=model_version,
    )


def _own_version() -> str:
    try:
        return version("bramble")
    except PackageNotFoundError:
        return "unreleased"
