"""Strategies: answers known by hand, the papers written out beside them, what must hold for any update."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_server.cohort.at_random import AtRandom
from broker_server.config import ModelConfig, ReleaseConfig, RoundsConfig, ServerConfig
from broker_server.strategies import STRATEGIES, ClientUpdate, Fleet, State, Strategy, find_strategy
from broker_server.strategies.fedavg import FedAvg, weighted_mean
from broker_server.strategies.fedavgm import FedAvgM
from broker_server.strategies.fedbuff import FedBuff
from broker_server.strategies.fednova import FedNova, steps_taken
from broker_server.strategies.fedper import FedPer
from broker_server.strategies.fedprox import FedProx
from broker_server.strategies.scaffold import CONTROL_SLOT, Scaffold
from compression.records import RecordError, from_plain, to_plain
from compression.spec import ModelSpec, TableInput, TensorSpec, Weights
from tests.broker_server import reference_strategies as reference
from tests.broker_server.reference_strategies import Client

FLEET = Fleet(examples=100)
SPEC = ModelSpec(
    "m",
    TableInput(("x",), (0.0,), (1.0,)),
    ("a", "b"),
    (
        TensorSpec("conv/kernel", (2,)),
        TensorSpec("norm/mean", (2,), "statistic"),
        TensorSpec("head/kernel", (2,)),
        TensorSpec("head/bias", (1,)),
    ),
)


def tensors(*values: float) -> Weights:
    return {"w": np.array(values, np.float32)}


def update(values: Sequence[float], examples: int = 1, **more: object) -> ClientUpdate:
    return ClientUpdate(tensors(*values), examples, **more)  # type: ignore[arg-type]


def stepped(
    strategy: Strategy, *updates: ClientUpdate, state: State | None = None, fleet: Fleet = FLEET
) -> list[float]:
    return strategy.aggregate(state or {}, updates, fleet)[1]["w"].tolist()


# ---- by hand ----


def test_fedavg_weighs_by_examples() -> None:
    assert stepped(FedAvg(), update([1.0, 0.0], 3), update([0.0, 4.0], 1)) == [0.75, 1.0]


def test_fedprox_is_the_mean_and_tells_the_devices_mu() -> None:
    assert stepped(FedProx(mu=0.5), update([2.0]), update([4.0])) == [3.0]
    assert (FedProx(mu=0.5).proximal_mu, FedAvg().proximal_mu) == (0.5, 0.0)


def test_fednova_does_not_let_many_steps_pull() -> None:
    """Both walk 1 a step, towards +1 and -1: nine steps against one pull no further than one."""
    answer = stepped(FedNova(), update([9.0], steps=9), update([-1.0], steps=1))
    assert answer == [0.0]  # FedAvg: (9 - 1) / 2 = 4
    assert stepped(FedNova(), update([9.0], steps=9), update([1.0], steps=1)) == [
        5.0
    ]  # mean direction 1, mean of 9 and 1


def test_fednova_divides_by_all_steps_and_counts_as_many_as_the_capped_examples_take() -> None:
    """Both walk 1 a step; of the ten steps of the first two count: 1 times the mean of 2 and 2."""
    answer = stepped(FedNova(), update([10.0], steps=10, counted_steps=2), update([2.0], steps=2))
    assert answer == [2.0]


def test_fednova_knows_how_far_momentum_goes() -> None:
    """Momentum 0.9, unit gradients, three steps: 1, 1.9, 2.71."""
    assert steps_taken(3, "sgd") == 3
    assert steps_taken(3, "momentum") == pytest.approx(1 + 1.9 + 2.71)
    assert steps_taken(1, "nesterov") == pytest.approx(1.9)
    assert steps_taken(3, "nesterov") == pytest.approx(1.9 + 2.71 + (0.9 * 2.71 + 1))


def test_fedavgm_keeps_moving() -> None:
    strategy = FedAvgM(momentum=0.5, server_learning_rate=2.0)
    state, first = strategy.aggregate({}, [update([1.0])], FLEET)
    assert first["w"].tolist() == [2.0]
    state, second = strategy.aggregate(state, [update([1.0])], FLEET)
    assert second["w"].tolist() == [3.0]
    assert state["velocity"]["w"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # m = 0.1 * 2, v as the paper has it from v = 0.01 and a delta of 2; eta 0.1, tau 0.1
        ("fedadam", 0.1 * 0.2 / ((0.99 * 0.01 + 0.01 * 4) ** 0.5 + 0.1)),
        ("fedyogi", 0.1 * 0.2 / ((0.01 + 0.01 * 4) ** 0.5 + 0.1)),
        ("fedadagrad", 0.1 * 2.0 / ((0.01 + 4) ** 0.5 + 0.1)),  # without momentum, m = 2
    ],
)
def test_the_first_step_of_fedopt(name: str, expected: float) -> None:
    strategy = replace(find_strategy(name), server_learning_rate=0.1, tau=0.1)
    assert stepped(strategy, update([2.0])) == [pytest.approx(expected, rel=1e-6)]


def test_scaffold_moves_c_by_the_share_of_the_fleet() -> None:
    updates = [update([2.0], 10, variate=tensors(1.0)), update([4.0], 30, variate=tensors(-1.0))]
    state, step = Scaffold(server_learning_rate=0.5).aggregate({}, updates, FLEET)
    assert step["w"].tolist() == [0.5 * (10 * 2 + 30 * 4) / 40]
    assert state[CONTROL_SLOT]["w"].tolist() == [pytest.approx((10 - 30) / 100)]
    state, _ = Scaffold().aggregate(state, updates[:1], FLEET)
    assert state[CONTROL_SLOT]["w"].tolist() == [pytest.approx(-0.2 + 0.1)]


def test_scaffold_without_a_variate_is_refused() -> None:
    with pytest.raises(ValueError, match="without the change"):
        Scaffold().aggregate({}, [update([1.0])], FLEET)


def test_fedbuff_moves_less_for_old_updates() -> None:
    fresh, old = update([2.0]), update([2.0], discount=0.5)
    assert stepped(FedBuff(), fresh, fresh) == [2.0]
    assert stepped(FedBuff(), old, old) == [1.0]  # not divided by what staleness leaves
    assert stepped(FedBuff(server_learning_rate=0.5), fresh, old) == [0.75]


def test_a_buffer_of_few_examples_moves_little() -> None:
    """Two devices with an example each, in a fleet of four that have ten on average: 2 of 20."""
    fleet = Fleet(examples=40, devices=4)
    assert stepped(FedBuff(), update([5.0]), update([5.0]), fleet=fleet) == [pytest.approx(0.5)]
    assert stepped(FedBuff(), update([5.0], 30), update([5.0], 20), fleet=fleet) == [5.0]  # no more than that


def test_fedper_keeps_the_last_layer_or_those_named() -> None:
    assert FedPer().personal(SPEC) == ("head/kernel", "head/bias")
    assert FedPer(layers=("conv",)).personal(SPEC) == ("conv/kernel",)
    with pytest.raises(ValueError, match="no layer 'tail'; the model has conv, norm, head"):
        FedPer(layers=("tail",)).personal(SPEC)
    with pytest.raises(ValueError, match="nothing is left"):
        FedPer(layers=("conv", "norm", "head")).personal(SPEC)


@pytest.mark.parametrize("name", ["fedavg", "fednova", "fedavgm", "fedadam", "fedbuff", "scaffold"])
def test_statistics_are_averaged_whatever_the_strategy(name: str) -> None:
    fleet = Fleet(examples=4, statistics=frozenset({"mean"}))

    def one(value: float, examples: int, steps: int) -> ClientUpdate:
        both = tensors(value) | {"mean": np.array([value], np.float32)}
        return ClientUpdate(both, examples, steps, variate=tensors(0.0))

    strategy = find_strategy(name)
    if name in ("fednova", "fedbuff", "scaffold"):
        strategy = replace(strategy, server_learning_rate=0.5)
    _, step = strategy.aggregate({}, [one(1.0, 1, 9), one(5.0, 3, 1)], fleet)
    assert step["mean"].tolist() == [4.0]


def test_no_update_and_no_weight_are_errors() -> None:
    for name in STRATEGIES:
        with pytest.raises(ValueError, match="no update"):
            find_strategy(name).aggregate({}, [], FLEET)
    with pytest.raises(ValueError, match="does not count"):
        weighted_mean([(tensors(1.0), 0)])
    with pytest.raises(ValueError, match="no steps"):
        FedNova().aggregate({}, [update([1.0], steps=0)], FLEET)


# ---- beside the papers ----

values = st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3)
clients = st.lists(
    st.builds(Client, values, st.integers(1, 50), st.integers(1, 20), st.integers(0, 5), values),
    min_size=1,
    max_size=5,
)


def as_updates(reports: Sequence[Client], exponent: float = 0.5) -> list[ClientUpdate]:
    return [
        update(
            report.delta,
            report.n,
            steps=report.tau,
            discount=(1 + report.staleness) ** -exponent,
            variate=tensors(*(report.change or [])),
        )
        for report in reports
    ]


def fresh(reports: Sequence[Client]) -> list[ClientUpdate]:
    return [replace(one, discount=1.0) for one in as_updates(reports)]


@given(reports=clients)
def test_as_the_papers_have_it(reports: list[Client]) -> None:
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(stepped(FedAvg(), *fresh(reports)), reference.fedavg(reports), **close)
    np.testing.assert_allclose(stepped(FedNova(), *fresh(reports)), reference.fednova(reports), **close)
    buffered = stepped(FedBuff(server_learning_rate=0.7), *as_updates(reports))
    np.testing.assert_allclose(buffered, reference.fedbuff(reports, 0.7), **close)
    everyone = sum(report.n for report in reports) + 7
    state: State = {CONTROL_SLOT: tensors(0.5, -0.5, 1.0)}
    after, step = Scaffold().aggregate(state, fresh(reports), Fleet(examples=everyone))
    x, c = reference.scaffold(reports, [0.5, -0.5, 1.0], everyone)
    np.testing.assert_allclose(step["w"], x, **close)
    np.testing.assert_allclose(after[CONTROL_SLOT]["w"], c, **close)


@given(rounds=st.lists(clients, min_size=1, max_size=4))
@pytest.mark.parametrize("kind", ["adam", "yogi", "adagrad"])
def test_fedopt_as_the_paper_has_it_round_after_round(kind: str, rounds: list[list[Client]]) -> None:
    strategy = replace(find_strategy(f"fed{kind}"), beta_1=0.9)
    paper = reference.FedOpt(kind, 3, strategy.server_learning_rate, 0.9, 0.99, strategy.tau)
    state: State = {}
    for reports in rounds:
        state, step = strategy.aggregate(state, fresh(reports), FLEET)
        np.testing.assert_allclose(step["w"], paper.step(reports), rtol=2e-2, atol=1e-5)


# ---- what must hold ----


@given(reports=clients)
def test_what_adds_nothing_is_fedavg(reports: list[Client]) -> None:
    plain = stepped(FedAvg(), *fresh(reports))
    assert stepped(FedProx(mu=0.0), *fresh(reports)) == plain
    assert stepped(FedAvgM(momentum=0.0), *fresh(reports)) == plain
    assert stepped(FedBuff(), *fresh(reports)) == plain
    assert stepped(Scaffold(), *fresh(reports)) == plain
    equal = [replace(one, steps=7) for one in fresh(reports)]
    np.testing.assert_allclose(stepped(FedNova(), *equal), plain, rtol=1e-5, atol=1e-6)


@given(reports=clients, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_updates_give_the_same_bits_and_the_order_hardly_matters(
    name: str, reports: list[Client], seed: int
) -> None:
    strategy, updates = find_strategy(name), as_updates(reports)
    first, again = stepped(strategy, *updates), stepped(strategy, *updates)
    assert first == again
    order = np.random.default_rng(seed).permutation(len(updates))
    np.testing.assert_allclose(stepped(strategy, *[updates[i] for i in order]), first, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", STRATEGIES)
def test_memory_does_not_grow_with_the_clients(name: str) -> None:
    size, rng = 50_000, np.random.default_rng(0)

    def stream(count: int) -> Iterator[ClientUpdate]:
        for _ in range(count):
            delta = {"w": rng.normal(size=size).astype(np.float32)}
            yield ClientUpdate(delta, 5, 3, variate=delta)

    def peak(count: int) -> int:
        tracemalloc.start()
        find_strategy(name).aggregate({}, stream(count), FLEET)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(40) < peak(4) + size  # bytes: a quarter of one more update


# ---- settings ----


def configured(**tables: object) -> ServerConfig:
    return from_plain(ServerConfig, {"fleet": "f", **tables})


def test_a_strategy_is_chosen_by_name_with_its_own_parameters() -> None:
    config = configured(strategy={"name": "fedprox", "mu": 1})
    assert config.strategy == FedProx(mu=1.0)
    assert configured().strategy == FedAvg()
    assert from_plain(ServerConfig, to_plain(config)) == config


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"strategy": {"name": "fedprox", "beta": 1.0}}, "unknown key 'beta'; known are mu"),
        ({"strategy": {"name": "fedsgd"}}, "unknown name 'fedsgd'; known are fedavg, fedprox, scaffold"),
        ({"strategy": {"name": "fedprox", "mu": -1.0}}, "mu must be from 0"),
        ({"strategy": {"name": "scaffold"}}, "needs model.optimizer = 'sgd'"),
        ({"strategy": {"name": "fedper"}}, "set release.enabled = false"),
        (
            {"strategy": {"name": "fedbuff"}, "cohort": {"select": "random", "size": 3}},
            "leave \\[cohort\\] out",
        ),
        ({"strategy": {"name": "fedbuff", "buffer": 1}}, "less than rounds.quorum"),
        ({"cohort": {"select": "random", "size": 1}}, "less than rounds.quorum"),
        ({"cohort": {"select": "best"}}, "unknown select 'best'; known are all, random, round-robin"),
        (
            {"cohort": {"select": "random", "at_least_every": 3}},
            "unknown key 'at_least_every'; known are size",
        ),
        (
            {"strategy": {"name": "scaffold"}, "model": {"optimizer": "sgd"}, "rounds": {"late": "weigh"}},
            "set rounds.late = 'drop'",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(tables: dict[str, object], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        configured(**tables)


def test_what_goes_together_is_taken() -> None:
    sgd, no_release = ModelConfig(optimizer="sgd"), ReleaseConfig(enabled=False)
    assert ServerConfig(fleet="f", model=sgd, strategy=Scaffold()).strategy.CONTROL
    assert ServerConfig(fleet="f", release=no_release, strategy=FedPer()).strategy == FedPer()
    cohort = AtRandom(size=3, over_select=1.3)
    assert ServerConfig(fleet="f", cohort=cohort, rounds=RoundsConfig(quorum=2)).cohort.count(10) == 4


def test_an_unknown_strategy_names_the_known_ones() -> None:
    with pytest.raises(RecordError, match="known are fedavg"):
        find_strategy("best")
