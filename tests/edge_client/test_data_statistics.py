"""Column statistics: what devices send adds up to what the pooled rows would give."""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.records import RecordError, dumps, loads
from edge_client.data import (
    ColumnStatistics,
    DataError,
    DataSource,
    QuantileSketch,
    column_statistics,
    load_data,
    table_input,
)
from edge_client.data.column_statistics import MAX_STATISTICS_BYTES, MIN_ROWS, Column, statistics_of
from edge_client.data.sketch import MAX_BUCKETS, VALUES_PER_BUCKET

RNG = np.random.default_rng(7)
NUMBERS = st.one_of(st.floats(-1e100, 1e100), st.floats(-10, 10), st.integers(-5, 5).map(float))


def values_like(*parts: list[float]) -> list[np.ndarray]:
    return [np.array(part, np.float64) for part in parts]


# ---- sketch ----


@given(st.lists(NUMBERS, min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_within_the_relative_error(values: list[float], fraction: float) -> None:
    array = np.array(values)
    sketch = QuantileSketch.of(array)
    true = np.sort(array)[int(np.floor(fraction * (len(array) - 1)))]
    assert sketch.count == len(array)
    assert abs(sketch.quantile(fraction) - true) <= (sketch.relative_error + 1e-9) * abs(true)


@given(st.lists(st.lists(NUMBERS, max_size=60), min_size=1, max_size=5), st.randoms())
def test_sketches_add_up_in_any_order(parts: list[list[float]], random) -> None:
    sketches = [QuantileSketch.of(array) for array in values_like(*parts)]
    total = reduce(add, sketches)
    random.shuffle(sketches)
    assert reduce(add, sketches) == total
    assert total.count == sum(map(len, parts))


@given(st.lists(NUMBERS, max_size=200), st.lists(NUMBERS, max_size=200))
def test_merged_quantiles_are_those_of_the_pooled_values(mine: list[float], its: list[float]) -> None:
    sketch = QuantileSketch.of(np.array(mine)) + QuantileSketch.of(np.array(its))
    pooled = np.sort(np.array(mine + its))
    for fraction in (0.0, 0.25, 0.5, 0.75, 1.0) if len(pooled) else ():
        true = pooled[int(np.floor(fraction * (len(pooled) - 1)))]
        assert abs(sketch.quantile(fraction) - true) <= (sketch.relative_error + 1e-9) * abs(true)


def test_the_error_fits_the_range_of_the_column() -> None:
    kelvin = RNG.uniform(290, 300, 5000)
    assert QuantileSketch.of(kelvin).relative_error < 2e-4
    decades = 10 ** RNG.uniform(-3, 3, 5000)
    assert 0.01 < QuantileSketch.of(decades).relative_error < 0.1


def test_buckets_stay_few_however_many_devices() -> None:
    total = reduce(add, (QuantileSketch.of(RNG.normal(0, 10**i, 1000)) for i in range(-5, 5)))
    assert len(total.negative) + len(total.positive) <= 2 * MAX_BUCKETS
    assert total.count == 10_000


@pytest.mark.parametrize("count", [100, 400, 2000])
def test_a_sketch_is_too_coarse_to_tell_which_values_there_are(count: int) -> None:
    sketch = QuantileSketch.of(RNG.uniform(1, 2, count))
    assert len(sketch.positive) // 2 <= max(16, count // VALUES_PER_BUCKET)
    assert np.mean(sketch.positive[1::2]) >= VALUES_PER_BUCKET


def test_zeros_and_signs() -> None:
    sketch = QuantileSketch.of(np.array([-4.0, -2.0, 0.0, 0.0, 8.0]))
    found = [sketch.quantile(i / 4) for i in range(5)]
    np.testing.assert_allclose(found, [-4, -2, 0, 0, 8], rtol=sketch.relative_error + 1e-12)
    assert sketch.zeros == 2


def test_quantiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="of 0 values"):
        QuantileSketch().quantile(0.5)
    with pytest.raises(ValueError, match=r"quantile 1\.5"):
        QuantileSketch.of(np.ones(3)).quantile(1.5)


@pytest.mark.parametrize("pairs", [(1,), (1, 0), (1, 2, 0, 3), (1, 2, -4, 3), (1, -2)])
def test_sketches_that_make_no_sense_are_refused(pairs: tuple[int, ...]) -> None:
    with pytest.raises(RecordError, match="pairs of ascending steps"):
        QuantileSketch(positive=pairs)


# ---- statistics ----


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=40), min_size=1, max_size=6))
def test_means_and_deviations_are_those_of_the_pooled_rows(parts: list[list[float]]) -> None:
    total = reduce(add, (Column.of("a", array) for array in values_like(*parts)))
    pooled = np.array([value for part in parts for value in part])
    assert total.count == len(pooled)
    if len(pooled):
        np.testing.assert_allclose(total.mean, pooled.mean(), rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(total.deviation, pooled.std(), rtol=1e-9, atol=1e-9)


def test_a_small_spread_on_a_large_mean_is_not_lost() -> None:
    parts = [1e9 + RNG.normal(0, 1e-3, 500) for _ in range(4)]
    total = reduce(add, (Column.of("a", part) for part in parts))
    pooled = np.concatenate(parts)
    exact = np.std((pooled - 1e9).astype(np.longdouble))
    np.testing.assert_allclose(total.deviation, float(exact), rtol=1e-6)
    naive = np.square(pooled).mean() - pooled.mean() ** 2
    assert abs(naive - float(exact) ** 2) > 1  # what plain sums of squares would have given


def test_standard_scaling_gives_mean_0_and_deviation_1() -> None:
    rows = RNG.normal([1, 100, -5], [0.1, 30, 1], (300, 3))
    input = table_input(statistics_of(rows, ("a", "b", "c")))
    scaled = (rows - input.center) / input.spread
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-10)
    assert input.columns == ("a", "b", "c")


def test_robust_scaling_is_median_and_quartiles_and_ignores_outliers() -> None:
    rows = np.concatenate([RNG.normal(50, 4, (2000, 1)), np.full((20, 1), 1e6)])
    input = table_input(statistics_of(rows, ("a",)), "robust")
    low, median, high = np.quantile(rows, [0.25, 0.5, 0.75])
    assert abs(input.center[0] - median) < 0.1 * median
    assert table_input(statistics_of(rows, ("a",))).center[0] > 1000
    clean = table_input(statistics_of(rows[:2000], ("a",)), "robust")
    np.testing.assert_allclose([clean.center[0], clean.spread[0]], [median, high - low], rtol=0.05)


@pytest.mark.parametrize("scaling", ["standard", "robust"])
@pytest.mark.parametrize("level", [0.0, 0.1, -7e15])
def test_constant_columns_get_spread_1(scaling: str, level: float) -> None:
    parts = [statistics_of(np.full((n, 1), level), ("a",)) for n in (7, 11, 13)]
    input = table_input(reduce(add, parts), scaling)  # type: ignore[arg-type]
    assert input.spread == (1.0,)
    assert input.center[0] == pytest.approx(level)


def test_quartiles_that_coincide_fall_back_on_the_deviation() -> None:
    rows = np.array([[0.0]] * 90 + [[5.0]] * 10)
    input = table_input(statistics_of(rows, ("a",)), "robust")
    assert input.center == (0.0,)
    assert input.spread[0] == pytest.approx(1.5)


def test_a_handful_of_rows_is_not_told() -> None:
    few = statistics_of(np.arange(MIN_ROWS - 1.0)[:, None], ("a",))
    assert (few.rows, few.columns[0].mean) == (0, 0.0)
    enough = statistics_of(np.arange(10.0)[:, None], ("a",))
    assert few + enough == enough + few == enough
    with pytest.raises(DataError, match="no device has the 5 training rows"):
        table_input(few + few)


def test_no_value_of_a_row_is_in_the_message(tmp_path: Path) -> None:
    rows = RNG.normal(10, 3, (200, 2))
    text = dumps(statistics_of(rows, ("a", "b"))).decode()
    assert not any(repr(value) in text for value in rows.ravel().tolist())


@pytest.mark.parametrize(("rows", "decades"), [(200, 1), (20_000, 3), (300_000, 12)])
def test_thirty_columns_fit_a_message(rows: int, decades: int) -> None:
    table = 10 ** RNG.uniform(-decades, decades, (rows, 30)) * RNG.choice([-1, 1], (rows, 30))
    statistics = statistics_of(table, tuple(f"the name of column number {i}" for i in range(30)))
    data = dumps(statistics)
    assert len(data) <= 65_536
    assert loads(ColumnStatistics, data, max_bytes=MAX_STATISTICS_BYTES) == statistics


def test_statistics_of_other_columns_do_not_add_up() -> None:
    rows = np.ones((6, 2))
    with pytest.raises(RecordError, match="'b' and 'c' cannot be added"):
        statistics_of(rows, ("a", "b")) + statistics_of(rows, ("a", "c"))
    with pytest.raises(RecordError, match="of 2 and 1 columns"):
        statistics_of(rows, ("a", "b")) + statistics_of(rows[:, :1], ("a",))


def test_counts_that_differ_are_refused() -> None:
    with pytest.raises(RecordError, match="3 values sketched of 4"):
        Column("a", 4, 0.0, 0.0, QuantileSketch(zeros=3))


def table(folder: Path) -> DataSource:
    lines = [f"{value!r},{-value!r},{i % 2}" for i, value in enumerate(RNG.normal(3, 1, 50).tolist())]
    (folder / "rows.csv").write_text("\n".join(["a,b,label", *lines]))
    return DataSource("table", folder / "rows.csv")


def test_a_device_counts_its_training_rows_only(tmp_path: Path) -> None:
    source = table(tmp_path)
    statistics = column_statistics(source, ("b", "a"), validation_fraction=0.2, seed=3)
    data = load_data(source, table_input(statistics), ("0", "1"), validation_fraction=0.2, seed=3)
    assert statistics.rows == len(data.train_index) == 40
    training = data.inputs[data.train_index]
    np.testing.assert_allclose([c.mean for c in statistics.columns], training.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose([c.deviation for c in statistics.columns], training.std(axis=0), rtol=1e-12)


def test_sources_without_the_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'c', which the model needs"):
        column_statistics(table(tmp_path), ("a", "c"))
    with pytest.raises(DataError, match="holds pictures"):
        column_statistics(DataSource("folder", tmp_path), ("a",))
