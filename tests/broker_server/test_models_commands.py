"""``bramble-server models``: orders that wait, lists, previews; and a registry that nobody edits unnoticed.

What the orders do is in `tests/integration/test_rollout.py`, with a fleet.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker_server.cli import main
from broker_server.config import ServerConfig, load_config
from broker_server.fleet import create_fleet, ledger_path
from broker_server.rollout.machine import RolloutState
from broker_server.rollout.orders import MAX_ORDER_BYTES, Order
from broker_server.rollout.planning import RolloutError
from broker_server.rollout.registry import MODELS, ModelRecord, Registry
from broker_server.rollout.standing import CURRENT
from broker_server.store.ledger import Ledger
from broker_server.store.models import ModelStore
from compression.records import RecordError, loads
from edge_client.session.blobs import BlobStore
from edge_client.wire.rollout import ModelHealth, ReleaseReport
from provisioning.pki.signing import load_signing_key
from tests.broker_server.test_intake import hello
from tests.edge_client.agent_cases import release
from tests.edge_client.inference_cases import brightness_model


class Fleet:
    """A fleet's directory after a run, without the run."""

    def __init__(self, folder: Path) -> None:
        self.settings = create_fleet(folder, ServerConfig(fleet="ward"))
        self.config = load_config(self.settings)
        with self.ledger() as ledger:
            store, key = ModelStore(ledger.connection), load_signing_key(Path(self.config.keys))
            registry = Registry(store, "ward", key.public_hex, key)
            for version in (1, 2):
                registry.add(record(version))
            store.keep_rollout(
                RolloutState(version=2, waves=(("pi-1",), ("pi-2",)), back_to=1), 2, release(2)
            )
            ledger.set_fact(CURRENT, "1")

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        ledger = Ledger(ledger_path(self.config))
        with contextlib.closing(ledger):
            yield ledger

    def run(self, *arguments: str) -> int:
        return main(["models", *arguments, "--config", str(self.settings)])

    def waiting(self) -> list[Order]:
        with self.ledger() as ledger:
            orders = ModelStore(ledger.connection).open_orders().values()
        return [loads(Order, text.encode(), max_bytes=MAX_ORDER_BYTES) for text in orders]


def record(version: int) -> ModelRecord:
    return ModelRecord(
        version=version,
        parent=version - 1,
        created=1.8e9,
        origin="small_cnn, 3 rounds",
        recipe="int8",
        metrics={"accuracy": 0.9 + version / 100},
        release=release(version),
    )


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "ward")


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_every_version_is_listed(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert fleet.run("list", "--json") == 0
    first, second = printed(capsys)
    assert (first["version"], first["parent"], first["phase"], first["accuracy"]) == (1, 0, "current", 0.91)
    assert (second["version"], second["parent"], second["phase"]) == (2, 1, "offering")
    assert fleet.run("list") == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["version", "parent", "made"]


def test_one_version_is_shown_with_its_signature(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    with fleet.ledger() as ledger:
        ledger.keep_release_report(
            "pi-1", ReleaseReport(order=1, version=2, outcome="refused", reason="slow")
        )
    assert fleet.run("show", "2", "--json") == 0
    shown = printed(capsys)
    assert (shown["signature"], shown["waves"]) == ("good", [["pi-1"], ["pi-2"]])
    assert fleet.run("show", "2") == 0
    assert "model 2: offering" in capsys.readouterr().out


def test_show_names_the_devices_that_do_badly_with_it_by_now(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet.ledger() as ledger:
        for device, accuracy in (("pi-1", 0.7), ("pi-2", 0.9)):
            ledger.keep_hello(device, replace(hello(), model_version=1), time.time())
            gate = ReleaseReport(order=1, version=1, outcome="activated", reason="", accuracy=0.9)
            ledger.keep_release_report(device, gate)
            health = ModelHealth(version=1, accuracy=accuracy, examples=100)
            ModelStore(ledger.connection).keep_health(device, 1, health, 1.0)
    assert fleet.run("show", "1", "--json") == 0
    assert printed(capsys)["doing_badly"] == {"pi-1": "accuracy 0.700 by now, 0.900 at the gate"}
    assert fleet.run("show", "1") == 0
    assert "warning: it does badly on pi-1: accuracy 0.700 by now" in capsys.readouterr().out


def test_an_edited_registry_is_noticed(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(sqlite3.connect(ledger_path(fleet.config), isolation_level=None)) as db:
        db.execute("UPDATE models SET record = replace(record, '0.92', '0.99') WHERE version = 2")
    assert fleet.run("list") == 1
    assert capsys.readouterr().err == "error: model 2 in the registry is not signed by the fleet's key\n"


@pytest.mark.parametrize(
    ("arguments", "order"),
    [
        (["promote"], Order(kind="promote")),
        (["promote", "2", "--everyone"], Order(kind="promote", version=2, everyone=True)),
        (["rollback", "1"], Order(kind="rollback", version=1)),
        (["pause"], Order(kind="pause")),
        (["pin", "pi-3", "1"], Order(kind="pin", device="pi-3", version=1)),
        (["unpin", "pi-3"], Order(kind="unpin", device="pi-3")),
    ],
)
def test_an_order_can_wait_for_the_next_server(
    fleet: Fleet, arguments: list[str], order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fleet.run(*arguments, "--later") == 0
    assert capsys.readouterr().out == "order 1 waits for the next server\n"
    assert fleet.waiting() == [order]


def test_a_push_brings_the_file_along(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pruned.tflite"
    file.write_bytes(brightness_model())
    assert fleet.run("push", str(file), "--recipe", "pruned-80", "--later", "--json") == 0
    assert printed(capsys) == {"order": 1}
    (order,) = fleet.waiting()
    assert (order.kind, order.origin, order.recipe) == ("push", "push of pruned.tflite", "pruned-80")
    assert order.model is not None
    assert BlobStore(Path(fleet.config.state) / MODELS).read(order.model) == brightness_model()


def test_a_server_at_work_is_waited_for(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_server.models_commands.ANSWER_S", 0.0)
    with fleet.ledger() as ledger:  # its lock says that a server runs
        assert fleet.run("pause") == 0
        assert "the server is busy; the order waits" in capsys.readouterr().out
        ModelStore(ledger.connection).answer_order(1, "refused: no rollout is at work")
        monkeypatch.setattr("broker_server.models_commands.leave_order", lambda *_: 1)
        assert fleet.run("pause") == 1
    assert capsys.readouterr().err == "error: no rollout is at work\n"


def test_what_is_no_model_is_not_pushed(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no model")
    assert fleet.run("push", str(file)) == 1
    assert "is not a TFLite file" in capsys.readouterr().err
    assert fleet.waiting() == []


def test_a_dry_run_sends_nothing(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert fleet.run("rollback", "--dry-run", "--json") == 0
    assert printed(capsys) == {"from": 2, "to": 1, "devices": ["pi-1"]}
    assert fleet.waiting() == []


def test_before_the_first_run_there_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = create_fleet(tmp_path / "new", ServerConfig(fleet="new"))
    assert main(["models", "list", "--config", str(settings)]) == 1
    assert "this fleet has not run yet" in capsys.readouterr().err


def test_versions_that_do_not_exist_are_named(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert fleet.run("show", "9") == 1
    assert capsys.readouterr().err == "error: there is no model version 9; known: 1, 2\n"


def test_a_registry_without_the_key_is_for_reading(fleet: Fleet) -> None:
    with fleet.ledger() as ledger:
        public = load_signing_key(Path(fleet.config.keys)).public_hex
        registry = Registry(ModelStore(ledger.connection), "ward", public)
        assert [one.version for one in registry.all()] == [1, 2]
        with pytest.raises(RolloutError, match="opened to be read"):
            registry.add(record(3))
        with pytest.raises(RolloutError, match="not signed by the fleet's key"):
            Registry(ModelStore(ledger.connection), "another", public).get(1)


@pytest.mark.parametrize("fields", [{"kind": "push"}, {"kind": "pin"}, {"kind": "pin", "device": "a b"}])
def test_orders_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        replace(Order(kind="pause"), **fields)
