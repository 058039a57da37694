"""Temperatures and likeness: answers known by hand, sums that add up, real scans against other pictures."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compression.records import RecordError
from compression.spec import ImageInput, TableInput
from edge_client.inference.answering import Answerer, at_home
from edge_client.inference.calibration import (
    expected_calibration_error,
    fit_temperature,
    temperature_losses,
    tempered,
)
from edge_client.inference.installed import ActiveModel
from edge_client.inference.likeness import (
    SMALLEST_LIMIT,
    describe,
    distances,
    fit_likeness,
    moments,
    own_limit,
)
from edge_client.inference.predictor import Predictor
from edge_client.inference.sums import calibration_sums
from edge_client.wire.calibration import MAX_FEATURES, TEMPERATURES, Answering, CalibrationSums, Likeness
from tests.edge_client.inference_cases import SHAPE, SPEC, brightness_model, local_data

TABLE = TableInput(columns=("a", "b"), center=(0.0, 0.0), spread=(1.0, 1.0))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


# ---- temperature ----


def test_a_temperature_of_two_halves_the_logit() -> None:
    probabilities = softmax(np.array([[0.0, 4.0, 1.0]]))
    np.testing.assert_allclose(tempered(probabilities, 2.0), softmax(np.array([[0.0, 2.0, 0.5]])), atol=1e-6)
    assert tempered(probabilities, 1.0) is probabilities


def test_certainty_stays_finite_and_no_answer_changes() -> None:
    probabilities = np.array([[1.0, 0.0], [0.4, 0.6]], np.float32)
    for temperature in (0.25, 8.0):
        changed = tempered(probabilities, temperature)
        assert np.isfinite(changed).all()
        assert (changed.argmax(axis=1) == probabilities.argmax(axis=1)).all()


def test_the_losses_are_those_of_the_tempered_probabilities() -> None:
    rng = np.random.default_rng(0)
    probabilities, labels = softmax(rng.normal(size=(20, 3))), rng.integers(0, 3, 20)
    losses = temperature_losses(probabilities, labels)
    for temperature, loss in zip(TEMPERATURES, losses, strict=True):
        own = tempered(probabilities, temperature)[np.arange(20), labels]
        assert loss == pytest.approx(float(-np.log(own).sum()), rel=1e-4)


def test_the_fleet_finds_the_temperature_by_which_a_model_was_too_sure() -> None:
    """Labels drawn from probabilities, and a model that says them with logits three times as large."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.5, size=(6000, 2))
    labels = (rng.random(6000) < softmax(logits)[:, 1]).astype(np.int64)
    sure = softmax(3 * logits)
    parts = [
        CalibrationSums(examples=2000, losses=temperature_losses(sure[part::3], labels[part::3]))
        for part in range(3)
    ]
    temperature = fit_temperature(reduce(add, parts))
    assert temperature == pytest.approx(3.0, rel=0.1)  # the grid is nine per cent wide
    assert expected_calibration_error(tempered(sure, temperature), labels) < 0.03
    assert expected_calibration_error(sure, labels) > 0.1


def test_without_examples_nothing_is_changed() -> None:
    assert fit_temperature(CalibrationSums()) == 1.0


def test_a_model_without_a_mistake_is_not_made_surer() -> None:
    probabilities = np.tile(np.array([[0.9, 0.1], [0.2, 0.8]], np.float32), (5, 1))
    labels = np.tile([0, 1], 5)
    losses = temperature_losses(probabilities, labels)
    assert min(losses) == losses[0]  # the least at the lowest temperature: it would fall on for ever
    assert fit_temperature(CalibrationSums(examples=10, losses=losses)) == 1.0


def test_a_model_worse_than_guessing_gets_the_highest_temperature() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    losses = temperature_losses(probabilities, np.array([1, 0]))
    assert fit_temperature(CalibrationSums(examples=2, losses=losses)) == TEMPERATURES[-1]


def test_of_equal_losses_the_nearest_to_one_is_taken() -> None:
    losses = temperature_losses(np.full((4, 2), 0.5, np.float32), np.array([0, 1, 1, 0]))
    assert len(set(losses)) == 1
    assert fit_temperature(CalibrationSums(examples=4, losses=losses)) == 1.0


# ---- likeness ----


def test_moments_add_up_to_those_of_all() -> None:
    features = np.random.default_rng(2).normal(size=(90, 4))
    parts = reduce(add, [moments(features[part::3]) for part in range(3)])
    whole = moments(features)
    np.testing.assert_allclose(parts.products, whole.products)
    assert parts.seen == 90


def test_the_distance_is_mahalanobis_and_one_is_typical() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(5000, 2)) * (1.0, 10.0)
    likeness = fit_likeness(moments(features))
    assert likeness is not None
    assert float(np.sqrt(np.square(distances(likeness, features)).mean())) == pytest.approx(1.0, abs=0.02)
    near, far = distances(likeness, np.array([[0.0, 20.0], [20.0, 0.0]]))
    assert near == pytest.approx(2 / np.sqrt(2), rel=0.05)  # two standard deviations in one of two features
    assert far == pytest.approx(20 / np.sqrt(2), rel=0.05)


def test_too_few_examples_say_nothing() -> None:
    assert fit_likeness(moments(np.ones((7, 4)))) is None
    assert fit_likeness(CalibrationSums()) is None


def test_constant_features_do_not_break_it() -> None:
    likeness = fit_likeness(moments(np.ones((50, 3))))
    assert likeness is not None
    assert distances(likeness, np.ones((1, 3)))[0] == pytest.approx(0)
    assert distances(likeness, np.full((1, 3), 2.0))[0] > SMALLEST_LIMIT


def test_a_device_answers_most_of_its_own_examples() -> None:
    likeness = Likeness(mean=(0.0,), precision=(1.0,), limit=2.0)
    assert own_limit(likeness, np.array([[5.0]] * 100)) == 5.0
    assert own_limit(likeness, np.zeros((100, 1))) == 2.0
    assert own_limit(likeness, np.zeros((0, 1))) == 2.0


def test_rows_of_many_columns_are_described_in_groups() -> None:
    wide = TableInput(
        columns=tuple(f"c{number}" for number in range(100)), center=(0.0,) * 100, spread=(1.0,) * 100
    )
    assert describe(np.ones((3, 100), np.float32), wide).shape == (3, MAX_FEATURES)
    np.testing.assert_allclose(describe(np.array([[1, 2]], np.float32), TABLE), [[1, 2]])


@pytest.mark.parametrize(
    "input",
    [
        ImageInput(height=1, width=1),
        ImageInput(height=3, width=5, channels=3),
        ImageInput(height=28, width=28),
    ],
)
def test_pictures_of_any_size_are_described(input: ImageInput) -> None:
    features = describe(np.random.default_rng(0).random((4, *input.shape), np.float32), input)
    assert len(features) == 4 and np.isfinite(features).all() and features.shape[1] <= MAX_FEATURES


def test_a_likeness_for_other_features_refuses_nothing() -> None:
    assert distances(Likeness(mean=(0.0,), precision=(1.0,), limit=2.0), np.ones((2, 3))).tolist() == [0, 0]


def test_chest_scans_are_answered_and_other_pictures_refused(medical_data: Path) -> None:
    with np.load(medical_data / "pneumoniamnist" / "pneumoniamnist.npz") as scans:
        train, validation, test = (scans[f"{part}_images"] for part in ("train", "val", "test"))
    input = ImageInput(height=28, width=28)

    def described(pixels: np.ndarray) -> np.ndarray:
        return describe((pixels / 255).astype(np.float32)[..., None], input)

    parts = [moments(described(train[part::3])) for part in range(3)]
    likeness = fit_likeness(reduce(add, parts))
    assert likeness is not None
    limit = own_limit(likeness, described(validation))
    brains = sorted((medical_data / "brain-mri-tumor").rglob("*.jpg"))[:100]
    others = [
        np.random.default_rng(0).integers(0, 256, (100, 28, 28)),
        255 - test[:100],
        np.full((1, 28, 28), 128),
        np.stack([np.asarray(Image.open(path).convert("L").resize((28, 28))) for path in brains]),
    ]
    assert (distances(likeness, described(test)) > limit).mean() < 0.03
    for pixels in others:
        assert (distances(likeness, described(pixels)) > limit).mean() > 0.9


# ---- together ----


def test_a_device_adds_up_what_its_model_says() -> None:
    predictor = Predictor(brightness_model(), SPEC)
    data = local_data([10, 20, 200, 230], [0, 0, 1, 1])
    sums = calibration_sums(predictor, replace(data, train_index=np.arange(3)))
    probabilities = predictor.predict((data.inputs / 255).astype(np.float32))
    assert (sums.examples, sums.seen) == (4, 3)
    assert sums.losses == pytest.approx(temperature_losses(probabilities, data.labels), rel=1e-5)


def test_answers_are_calibrated_and_strange_inputs_refused() -> None:
    inputs = np.linspace(0.4, 0.6, 50, dtype=np.float32)[:, None, None, None] * np.ones(
        (1, *SHAPE), np.float32
    )
    inputs += np.random.default_rng(0).normal(0, 0.02, inputs.shape).astype(np.float32)
    likeness = fit_likeness(moments(describe(inputs, SPEC.input)))
    answerer = Answerer(ActiveModel(1, brightness_model(), SPEC, b"", Answering(4.0, likeness)))
    usual, strange = answerer.answer(inputs[-1]), answerer.answer(np.zeros(SHAPE, np.float32))
    assert not usual.refused and strange.refused
    bare = Predictor(brightness_model(), SPEC).predict_one(inputs[-1])
    assert 0.5 < usual.probabilities[1] < bare[1]
    plain = Answerer(ActiveModel(1, brightness_model(), SPEC))
    assert plain.answer(np.zeros(SHAPE, np.float32)).unlike is None


def test_at_home_the_limit_suits_the_devices_own_examples() -> None:
    likeness = Likeness(
        mean=(0.0,) * 21, precision=tuple(np.eye(21)[np.triu_indices(21)].tolist()), limit=0.01
    )
    data = local_data([10, 200], [0, 1])
    home = at_home(Answering(2.0, likeness), SPEC, data)
    assert home.likeness is not None and home.likeness.limit > 0.01
    assert home.temperature == 2.0
    empty = at_home(Answering(2.0, likeness), SPEC, local_data([], []))
    assert empty.likeness == likeness


@pytest.mark.parametrize(
    "make",
    [
        lambda: CalibrationSums(examples=1),
        lambda: CalibrationSums(losses=(1.0,) * len(TEMPERATURES)),
        lambda: CalibrationSums(seen=1),
        lambda: CalibrationSums(seen=1, features=(1.0, 2.0), products=(1.0,)),
        lambda: Likeness(mean=(1.0,), precision=(), limit=1.0),
        lambda: CalibrationSums(seen=1, features=(1.0,), products=(1.0,)) + moments(np.ones((1, 2))),
    ],
)
def test_sums_that_do_not_fit_are_refused(make: object) -> None:
    with pytest.raises(RecordError):
        make()  # type: ignore[operator]
