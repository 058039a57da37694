"""Named points of a round, before and after each durable step, and how a process is stopped at one.

The product knows nothing of them: a child of the tests (`tests.integration.faults`) wraps the method that a
point names before it runs the real program. A run is: statistics, three rounds, evaluation, and with a
release calibration by the devices; two devices. The numbers below are chosen so that a point lies in round 2,
unless its name says otherwise.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal


def _always(*_arguments: Any) -> bool:
    return True


@dataclass(frozen=True)
class Point:
    """Right before or right after one call of a method.

    Attributes:
        target: ``module:Class.method`` or ``module:function``.
        when: before the call, or after it.
        nth: which of the calls, from 1.
        where: of the calls that count, by their arguments.
        first: what is done on arrival, by the call's arguments.
    """

    target: str
    when: Literal["before", "after"]
    nth: int
    where: Callable[..., bool] = _always
    first: Callable[..., object] = _always


def _receipt(_publisher: Any, _device: str, message: Any) -> bool:
    return type(message).__name__ == "Receipt" and bool(message.accepted)


SERVER = {
    "statistics-merged-before-they-count": Point(
        "broker_server.run_program:RunProgram.merge_statistics", "after", 1
    ),
    "first-weights-written-before-they-count": Point("broker_server.versions:Versions.begin", "after", 1),
    "task-written-before-it-is-published": Point("broker_server.stages:Stages.make_task", "after", 3),
    "task-published": Point("broker_server.publisher:Publisher.task", "after", 3),
    "update-checked-before-it-is-stored": Point("broker_server.stages:Stages.accept", "before", 5),
    "update-stored-before-its-result": Point("broker_server.store.ledger:Ledger.keep_result", "before", 5),
    "results-written-before-they-count": Point("broker_server.store.ledger:Ledger.keep_result", "after", 6),
    "ledger-written-before-the-receipt": Point(
        "broker_server.publisher:Publisher.tell", "before", 5, where=_receipt
    ),
    "receipt-sent-before-the-acknowledgement": Point(
        "broker_server.publisher:Publisher.tell", "after", 5, where=_receipt
    ),
    "all-updates-in-before-the-stage-closes": Point(
        "broker_server.publisher:Publisher.tell", "after", 6, where=_receipt
    ),
    "stage-closing-before-the-step-files": Point("broker_server.stages:Stages.close", "before", 3),
    "step-files-written-before-the-commit": Point("broker_server.versions:Versions.advance", "after", 2),
    "in-the-middle-of-the-commit": Point("broker_server.store.ledger:Ledger.close_task", "after", 3),
    "commit-done-before-the-next-task": Point("broker_server.stages:Stages.close", "after", 3),
    "next-task-out-before-the-evaluation": Point("broker_server.stages:Stages.finish", "before", 3),
    "next-task-out-before-the-sweep": Point("broker_server.closing:Closing._prune", "before", 3),
}

RELEASE = {
    "model-made-before-the-rollout-is-kept": Point(
        "broker_server.rollout.release:Rollout.start", "before", 1
    ),
    "rollout-kept-before-it-is-published": Point("broker_server.rollout.release:Rollout.feed", "before", 1),
}

CALIBRATION = {
    "range-program-made-before-the-task": Point("broker_server.calibrating:Calibrating.plan", "after", 1),
    "first-ranges-in-before-the-receipt": Point(
        "broker_server.publisher:Publisher.tell", "before", 11, where=_receipt
    ),
    "ranges-merged-before-they-count": Point("broker_server.calibrating:Calibrating.close", "after", 1),
}


def _is_result(path: Any, *_arguments: Any) -> bool:
    return bool(path.name == "result.json")


def _sends_a_result(_uplink: Any, message: Any, *_arguments: Any) -> bool:
    return type(message).__name__ == "Result"


def _hand_over(uplink: Any, *_arguments: Any) -> None:
    """What is acknowledged by the broker has what was sent before it in front: the last will, in advance."""
    uplink.say_goodbye()


EXTRACTION = {
    "some-features-kept": Point("edge_client.training.feature_cache:FeatureCache.add", "after", 1),
}

DEVICE = {
    "trained-before-the-result-is-written": Point("edge_client.state:DeviceState.keep_pending", "before", 3),
    "payload-written-before-the-result": Point(
        "edge_client.state:write_atomically", "before", 3, where=_is_result
    ),
    "result-written-before-it-is-remembered": Point(
        "edge_client.state:write_atomically", "after", 3, where=_is_result
    ),
    "result-written-before-it-is-sent": Point("edge_client.state:DeviceState.keep_pending", "after", 3),
    "result-sent-before-the-receipt": Point(
        "edge_client.uplink:Uplink.tell", "after", 3, where=_sends_a_result, first=_hand_over
    ),
    "receipt-come-before-the-residual-is-promoted": Point(
        "edge_client.state:DeviceState.settle", "before", 4
    ),
    "residual-promoted-before-the-result-is-removed": Point("edge_client.state:sync_directory", "before", 6),
    "receipt-dealt-with": Point("edge_client.state:DeviceState.settle", "after", 4),
}

MEASURING = {
    "ranges-measured-before-the-result-is-written": Point("edge_client.work:ranges_report", "after", 1),
    "ranges-written-before-they-are-sent": Point("edge_client.state:DeviceState.keep_pending", "after", 6),
}

POINTS = {**SERVER, **RELEASE, **CALIBRATION, **EXTRACTION, **DEVICE, **MEASURING}


def arm(name: str, act: Callable[[], object]) -> None:
    """Have `act` called when the process reaches a point."""
    point = POINTS[name]
    module, _, path = point.target.partition(":")
    *owners, method = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    inner, calls = getattr(owner, method), 0

    @wraps(inner)
    def watched(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += point.where(*arguments)
        here = point.where(*arguments) and calls == point.nth
        if here and point.when == "before":
            point.first(*arguments)
            act()
        value = inner(*arguments, **named)
        if here and point.when == "after":
            point.first(*arguments)
            act()
        return value

    setattr(owner, method, watched)
