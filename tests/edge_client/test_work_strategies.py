"""A device's side of the strategies with a real training program: what is sent, what stays on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compression.spec import ModelSpec, TrainableBundle, weights_digest
from compression.updates import decode_update, pack_model
from edge_client.training.scaffold import correction, moved, no_variate, variate_change
from edge_client.wire.rounds import Task
from edge_client.wire.variates import split_payload, variate_digest
from edge_client.wire.weights import WeightsRef
from edge_client.work import Outcome, Workshop
from tests.edge_client.test_work_training import PLAN, Program, delta_of, device, never, program

__all__ = ["device", "program"]  # fixtures

SGD = replace(PLAN, epochs=1, learning_rate=0.05)


def spec_of(program: Program) -> ModelSpec:
    return TrainableBundle.from_bytes(program[0]).spec


def flat(tensors: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in tensors.values()])


def accepted(workshop: Workshop, outcome: Outcome) -> None:
    """The receipt has come."""
    workshop._state.keep_pending(outcome.result, outcome.payload, outcome.kept)
    workshop._state.settle(accepted=True)


# ---- FedProx ----


def test_the_proximal_term_holds_the_weights_back(device, program) -> None:
    plain, held = [
        delta_of(program, workshop.perform(task, never).payload)
        for workshop, task in (device(), device(plan=replace(PLAN, proximal_mu=10.0)))
    ]
    assert np.linalg.norm(held) < 0.9 * np.linalg.norm(plain)


# ---- SCAFFOLD, as functions ----


def test_the_variate_of_a_client_alone_becomes_its_mean_gradient() -> None:
    """Two steps of 0.5 along a gradient of 3: delta -3. Alone, c is c_i, and nothing is corrected."""
    zeros, delta = {"w": np.zeros(1, np.float32)}, {"w": np.array([-3.0], np.float32)}
    change = variate_change(zeros, zeros, delta, steps=2, learning_rate=0.5)
    variate = moved(zeros, change)
    assert variate["w"].tolist() == [3.0]
    assert correction(variate, variate)["w"].tolist() == [0.0]
    again = variate_change(variate, variate, delta, steps=2, learning_rate=0.5)
    assert again["w"].tolist() == [0.0]


# ---- SCAFFOLD, at work ----


def with_control(workshop: Workshop, task: Task, control: dict[str, np.ndarray]) -> Task:
    full = workshop._blobs.put(pack_model(control))
    return replace(task, control=WeightsRef(version=1, digest=weights_digest(control), full=full))


def change_in(program: Program, outcome: Outcome) -> np.ndarray:
    report = outcome.result.training
    assert report is not None and report.variate_bytes
    bundle = TrainableBundle.from_bytes(program[0])
    _, change = split_payload(outcome.payload, report.variate_bytes)
    tensors = bundle.spec.trainable.tensors
    return flat(decode_update(change, tensors, model_digest=variate_digest(bundle.digest)).delta)


def test_a_control_variate_is_fetched_used_and_reported(device, program) -> None:
    spec, zeros = spec_of(program), no_variate(spec_of(program))
    workshop, task = device(plan=SGD)
    plain = workshop.perform(with_control(workshop, task, zeros), never)
    control = {name: np.full_like(array, 0.5) for name, array in zeros.items()}
    workshop, task = device(plan=SGD)
    task = with_control(workshop, task, control)
    outcome = workshop.perform(task, never)
    assert workshop._state.memory.control_digest == weights_digest(control)

    def update(one: Outcome) -> np.ndarray:
        assert one.result.training is not None
        return delta_of(program, split_payload(one.payload, one.result.training.variate_bytes)[0])

    assert not np.allclose(update(plain), update(outcome))
    report = outcome.result.training
    assert report is not None
    expected = -0.5 - update(outcome) / (report.steps * SGD.learning_rate)
    np.testing.assert_allclose(change_in(program, outcome), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(flat(outcome.kept["variate"]), expected, rtol=1e-3, atol=1e-4)
    assert [tensor.name for tensor in spec.trainable.tensors] == list(outcome.kept["variate"])


def test_what_the_codec_leaves_out_of_a_variate_is_in_the_next_change(device, program) -> None:
    workshop, task = device(plan=replace(SGD, codec="small"))
    outcome = workshop.perform(with_control(workshop, task, no_variate(spec_of(program))), never)
    sent, variate = change_in(program, outcome), flat(outcome.kept["variate"])
    np.testing.assert_array_equal(variate, sent)  # moved by what was sent, from zero
    assert 0 < np.count_nonzero(sent) < sent.size / 2


def test_a_variate_takes_effect_with_the_receipt_and_not_before(device, program) -> None:
    workshop, task = device(plan=SGD)
    task = with_control(workshop, task, no_variate(spec_of(program)))
    outcome = workshop.perform(task, never)
    workshop._state.keep_pending(outcome.result, outcome.payload, outcome.kept)
    assert not any(array.any() for array in workshop._variate(spec_of(program)).values())
    workshop._state.settle(accepted=False)
    assert workshop.perform(replace(task, number=10), never).payload == outcome.payload  # as if never trained
    accepted(workshop, outcome)
    np.testing.assert_array_equal(flat(workshop._variate(spec_of(program))), flat(outcome.kept["variate"]))
    assert workshop.perform(replace(task, number=11), never).payload != outcome.payload


def test_another_run_begins_without_the_variate_of_the_last(device, program) -> None:
    workshop, task = device(plan=SGD)
    task = with_control(workshop, task, no_variate(spec_of(program)))
    first = workshop.perform(task, never)
    accepted(workshop, first)
    again = workshop.perform(replace(task, run="1" * 16, number=10), never)
    assert again.payload == first.payload


# ---- FedPer and fine-tuning ----


def test_personal_tensors_stay_and_are_the_devices_own_the_next_time(device, program) -> None:
    personal = ("output/kernel", "output/bias")
    workshop, task = device(personal=personal)
    first = workshop.perform(task, never)
    bundle = TrainableBundle.from_bytes(program[0])
    shared = bundle.spec.without(personal)
    sent = decode_update(first.payload, shared.tensors, model_digest=bundle.digest).delta
    assert set(sent) == {tensor.name for tensor in bundle.spec.tensors} - set(personal)
    assert list(first.kept["residual"]) == list(sent)
    assert tuple(first.kept["personal"]) == personal
    accepted(workshop, first)
    evaluation = workshop.perform(replace(task, kind="evaluate", training=None, number=10), never)
    before, after = first.result.evaluation, evaluation.result.evaluation
    assert before is not None and after is not None
    assert after.loss_sum != before.loss_sum  # the same global weights, with its own head


def test_fine_tuning_tells_before_and_after_and_keeps_the_model_to_itself(device, program) -> None:
    workshop, task = device(kind="finetune", plan=replace(PLAN, epochs=20))
    outcome = workshop.perform(task, never)
    result = outcome.result
    assert outcome.payload == b"" and result.payload is None
    assert result.evaluation is not None and result.tuned is not None
    assert result.tuned.loss_sum < result.evaluation.loss_sum
    accepted(workshop, outcome)
    tuned = workshop._state.kept("tuned", spec_of(program))
    assert tuned is not None and not np.array_equal(flat(tuned), flat(program[1]))


def test_a_tensor_that_the_model_does_not_have_is_an_error(device) -> None:
    workshop, task = device(personal=("nothing",))
    with pytest.raises(ValueError, match="no tensor 'nothing'"):
        workshop.perform(task, never)
