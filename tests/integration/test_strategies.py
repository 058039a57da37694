"""Each strategy once through the real server, real agents, a real broker and a real training program."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from broker_server.closing import FINE_TUNING
from broker_server.cohort.at_random import AtRandom
from broker_server.cohort.oort import Oort
from broker_server.config import CodecConfig
from broker_server.records import FineTuning
from broker_server.strategies import STRATEGIES, find_strategy
from broker_server.strategies.adaptive import Adaptive
from broker_server.strategies.fedbuff import FedBuff
from broker_server.strategies.fedper import FedPer
from broker_server.strategies.scaffold import CONTROL_SLOT
from compression.records import loads
from compression.spec import unpack_weights, weights_digest
from tests.integration.in_process import DEVICES, Outcome, run_fleet, settled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
SYNCHRONOUS = [name for name, strategy in STRATEGIES.items() if not strategy.BUFFERED]
BEFORE_TRAINING = 0.63  # share of the larger class


@pytest.mark.parametrize("name", [name for name in SYNCHRONOUS if name not in ("scaffold", "fedper")])
def test_a_run_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    strategy = find_strategy(name)
    if isinstance(strategy, Adaptive):
        strategy = replace(strategy, server_learning_rate=0.05)  # three rounds are few for its usual steps
    outcome = run_fleet(tmp_path, monkeypatch, strategy=strategy)
    assert [len(record.clients) for record in outcome.rounds] == [DEVICES] * 3
    losses = [record.evaluation.loss for record in outcome.rounds if record.evaluation]
    assert losses[-1] < losses[0]
    assert outcome.server.stages.ledger.incidents() == []


def control_files(outcome: Outcome, name: str) -> list[np.ndarray]:
    spec = outcome.server.stages.bundle.spec.trainable
    found = []
    for device in range(1, DEVICES + 1):
        tensors = unpack_weights((outcome.state_of(device) / f"{name}.bin").read_bytes(), spec)
        found.append(np.concatenate([array.ravel() for array in tensors.values()]))
    return found


def test_scaffold_keeps_its_variates_in_step_and_gives_the_same_bits_when_the_server_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = find_strategy("scaffold")
    first = run_fleet(tmp_path / "first", monkeypatch, strategy=strategy, until=settled)
    assert first.accuracy > BEFORE_TRAINING
    assert all(part.variate_bytes > 0 for record in first.rounds for part in record.clients.values())
    state = first.server.stages.aggregation.state.read()[CONTROL_SLOT]
    control = np.concatenate([array.ravel() for array in state.values()])
    counts = [hello.data.examples for hello in first.server.stages.ledger.devices().values()]
    np.testing.assert_allclose(
        control, np.average(control_files(first, "variate"), axis=0, weights=counts), atol=1e-5
    )
    held = control_files(first, "control")
    assert all(np.array_equal(held[0], other) for other in held[1:])
    again = run_fleet(tmp_path / "again", monkeypatch, strategy=strategy, restart_after=1)
    digests = [weights_digest(outcome.server.stages.versions.weights) for outcome in (first, again)]
    assert digests[0] == digests[1]


def test_with_fedbuff_nobody_waits_for_all_and_nothing_counts_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run_fleet(tmp_path, monkeypatch, strategy=FedBuff(buffer=2), rounds={"rounds": 6})
    assert [len(record.clients) for record in outcome.rounds] == [2] * 6
    assert outcome.accuracy > BEFORE_TRAINING
    rows = outcome.server.stages.ledger._db.execute("SELECT task, device FROM results").fetchall()
    assert max(Counter(rows).values()) == 1
    assert any(part.staleness for record in outcome.rounds for part in record.clients.values())
    assert outcome.server.stages.ledger.incidents() == []


def test_with_fedper_the_head_never_leaves_and_each_device_is_evaluated_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run_fleet(
        tmp_path, monkeypatch, strategy=FedPer(), rounds={"fine_tune_epochs": 2}, until=settled
    )
    stages = outcome.server.stages
    first, last = stages.versions.first, stages.versions.weights
    from compression.updates import unpack_model

    untrained = unpack_model(stages.artefacts.read(first.full), stages.bundle.spec.tensors)
    assert stages.aggregation.personal == ("output/kernel", "output/bias")
    for name in stages.aggregation.personal:
        assert np.array_equal(last[name], untrained[name])
    assert not np.array_equal(last["dense1/kernel"], untrained["dense1/kernel"])
    heads = {(outcome.state_of(device) / "personal.bin").read_bytes() for device in range(1, DEVICES + 1)}
    assert len(heads) == DEVICES
    assert outcome.rounds[-1].evaluation is None  # the server has no whole model
    assert outcome.rounds[-1].federated is not None
    assert (outcome.rounds[-1].federated.accuracy or 0) > BEFORE_TRAINING
    tuning = loads(FineTuning, (stages.ledger.fact(FINE_TUNING) or "").encode(), max_bytes=1 << 20)
    assert len(tuning.before) == len(tuning.after) == DEVICES
    assert (outcome.state_of(1) / "tuned.bin").exists()


@pytest.mark.parametrize("rule", [AtRandom(size=2), Oort(size=1, over_select=2.0)])
def test_a_cohort_is_chosen_and_the_record_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: AtRandom | Oort
) -> None:
    rounds = {"quorum": 1}
    outcome = run_fleet(
        tmp_path, monkeypatch, cohort=rule, rounds=rounds, codec=CodecConfig("small", "small")
    )
    for record in outcome.rounds:
        assert record.selection is not None and record.selection.rule == rule.TAG
        assert (len(record.selection.chosen), len(record.selection.passed)) == (2, 1)
        assert len(record.clients) == rule.size
        assert set(record.clients) | set(record.released) == set(record.selection.chosen)
        assert all([*record.selection.chosen.values(), *record.selection.passed.values()])
    assert outcome.server.stages.ledger.incidents() == []
