"""Which way an int8 release is calibrated, when the one that was asked for leads nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker_server.config import DataConfig, ReleaseConfig
from broker_server.rollout.quantising import Quantiser
from compression.models.errors import ExportError
from compression.models.export import ExportedModel
from tests.broker_server.test_intake import SPEC, Desk, sums


def files(**problems: Any) -> Any:
    """Each way's file; None and errors where `problems` says so."""

    def made(how: str, _model: object, _spec: object) -> ExportedModel | None:
        problem = problems.get(how, "")
        if isinstance(problem, Exception):
            raise problem
        return None if problem is None else ExportedModel(how.encode(), "int8", "full-integer", (), ())

    return made


def released(desk: Desk, made: Any, **settings: Any) -> Any:
    quantiser = Quantiser(replace(desk.config, **settings), desk.stages)
    quantiser._made = made  # type: ignore[method-assign]
    return quantiser.release_of(None, SPEC, lambda _: sums())


def test_what_was_asked_for_is_released_and_nothing_else_is_made_without_held_out_examples(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path)
    result = released(desk, files(server=ExportError("never asked for"), none=None))
    assert result.exported.tflite == b"federated" and result.figures.used == "federated"
    assert result.figures.compared == () and desk.stages.ledger.incidents() == []


def test_what_fails_gives_way_to_the_next_and_is_an_incident(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    result = released(desk, files(federated=ExportError("no scale"), server=None))
    assert (result.figures.asked, result.figures.used) == ("federated", "none")
    (incident,) = desk.stages.ledger.incidents()
    assert "'federated': no scale" in incident.what


def test_a_comparison_that_fails_is_no_incident(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    data = DataConfig(evaluation="folder:held-out")
    result = released(desk, files(server=ExportError("too few")), data=data)
    assert [each.how for each in result.figures.compared] == ["federated", "none"]
    assert desk.stages.ledger.incidents() == []


def test_without_any_way_the_reason_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no op"):
        released(Desk(tmp_path), files(none=ExportError("no op")), release=ReleaseConfig(calibration="none"))
