"""The report's columns that only some runs have: who was asked and why, and what fine-tuning came to."""

from __future__ import annotations

from dataclasses import replace

from broker_server.cohort import Selection
from broker_server.cohort.oort import Oort
from broker_server.records import ClientRecord, RoundRecord
from broker_server.report.devices import ClientFigures
from broker_server.report.rounds import RoundFigures
from broker_server.report.schema import RunReport
from broker_server.report.tables import clients_grid, rounds_grid
from broker_server.results import _in_words, round_figures
from broker_server.strategies.fedavg import FedAvg
from broker_server.strategies.fedprox import FedProx
from tests.broker_server.report_samples import sample_report

SELECTION = Selection("oort", {"pi-1": "utility 0.9", "pi-2": "explored"}, {"pi-3": "82 C hot"})
RECORD = RoundRecord(
    round=1,
    version=1,
    started=0.0,
    seconds=1.0,
    clients={"pi-1": ClientRecord(10, 0.5, 1.0, 100, 200)},
    dropped={},
    released=("pi-2",),
    selection=SELECTION,
)


def with_rounds(*rounds: RoundFigures) -> RunReport:
    return replace(sample_report(), rounds=rounds)


def test_a_rounds_figures_say_who_was_asked_and_who_was_not_needed() -> None:
    figures = round_figures(RECORD)
    assert figures.chosen == SELECTION.chosen and figures.passed == SELECTION.passed
    assert figures.released == ("pi-2",)


def test_the_table_of_rounds_gives_the_reasons() -> None:
    grid = rounds_grid(with_rounds(round_figures(RECORD)))
    row = dict(zip(grid.headers, grid.rows[0], strict=True))
    assert row["Asked because"] == "pi-1: utility 0.9; pi-2: explored"
    assert row["Not asked because"] == "pi-3: 82 C hot"
    assert row["Not needed"] == "pi-2"


def test_where_everyone_is_asked_there_is_nothing_to_say() -> None:
    plain = replace(RECORD, selection=None, released=())
    assert "Asked because" not in rounds_grid(with_rounds(round_figures(plain))).headers


def test_fine_tuning_shows_before_and_after() -> None:
    clients = (ClientFigures("pi-1", fleet_accuracy=0.8, tuned_accuracy=0.95), ClientFigures("pi-2"))
    grid = clients_grid(replace(sample_report(), clients=clients))
    row = dict(zip(grid.headers, grid.rows[0], strict=True))
    assert (row["Fleet's model"], row["Own model"]) == ("0.800", "0.950")
    assert "before and after it trained on alone" in grid.note
    assert "Own model" not in clients_grid(replace(sample_report(), clients=clients[1:])).headers


def test_the_settings_name_the_strategy_with_its_parameters() -> None:
    assert _in_words(FedAvg()) == "fedavg"
    assert _in_words(FedProx(mu=0.5)) == "fedprox, mu 0.5"
    assert _in_words(Oort(size=4)).startswith("oort, size 4, over select 1.0")
