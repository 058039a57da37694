"""Updates and models through the codec: both sides agree to the bit, and residuals lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.records import RecordError
from compression.spec import TensorSpec
from compression.updates import (
    PROFILES,
    CodecError,
    CodecProfile,
    decode_update,
    encode_update,
    pack_model,
    unpack_model,
    with_feedback,
)

MODEL = "5a" * 32
Arrays = dict[str, npt.NDArray[np.float32]]

CNN = (
    TensorSpec("conv/kernel", (3, 3, 4, 8)),
    TensorSpec("conv/bias", (8,)),
    TensorSpec("bn/gamma", (8,)),
    TensorSpec("bn/mean", (8,), "statistic"),
    TensorSpec("bn/variance", (8,), "statistic"),
    TensorSpec("dense/kernel", (200, 40)),
    TensorSpec("dense/bias", (40,)),
    TensorSpec("temperature", ()),
)


def update(seed: int, tensors: tuple[TensorSpec, ...] = CNN) -> Arrays:
    """Heavy-tailed, each tensor on a scale of its own, as trained updates are."""
    rng = np.random.default_rng(seed)
    return {
        t.name: (np.asarray(rng.standard_t(3, t.shape)) * 10.0 ** rng.uniform(-4, -1)).astype(np.float32)
        for t in tensors
    }


def flat(arrays: Arrays) -> npt.NDArray[np.float32]:
    return np.concatenate([array.ravel() for array in arrays.values()])


def bits(arrays: Arrays) -> dict[str, tuple[tuple[int, ...], bytes]]:
    return {name: (array.shape, array.tobytes()) for name, array in arrays.items()}


profiles = st.builds(
    CodecProfile,
    name=st.just("by-density"),
    density=st.floats(0.001, 1.0),
    bits=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 32]),
    scope=st.sampled_from(["model", "tensor"]),
    block=st.integers(16, 600),
    whole_share=st.floats(0, 1),
    whole_mantissa=st.integers(0, 23),
    statistic_mantissa=st.integers(0, 23),
    warmup_rounds=st.integers(0, 5),
    first_density=st.floats(0.001, 1.0),
    step_factor=st.floats(1.0, 100.0),
) | st.builds(
    CodecProfile,
    name=st.just("by-bytes"),
    times=st.floats(1.0, 1000.0),
    level=st.integers(1, 127),
    bits=st.integers(1, 8),
    scope=st.sampled_from(["model", "tensor"]),
    whole_share=st.floats(0, 1),
)


@st.composite
def specs(draw: st.DrawFn) -> tuple[TensorSpec, ...]:
    shapes = draw(st.lists(st.lists(st.integers(1, 7), max_size=4), min_size=1, max_size=6))
    roles = st.sampled_from(["trainable", "statistic"])
    return tuple(TensorSpec(f"t{i}", tuple(shape), draw(roles)) for i, shape in enumerate(shapes))


# ---- both sides agree ----


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_receiver_reconstructs_what_the_sender_says_it_sent(profile: CodecProfile) -> None:
    encoded = encode_update(update(1), profile, model_digest=MODEL, round_number=7, tensors=CNN)
    decoded = decode_update(encoded.payload, CNN, model_digest=MODEL)
    assert bits(decoded.delta) == bits(encoded.sent)
    assert (decoded.round_number, decoded.bits) == (7, profile.bits)


@settings(max_examples=150, deadline=None)
@given(profiles, specs(), st.integers(0, 1 << 30), st.sampled_from([0.0, 1e-40, 1e-6, 1.0, 1e29]))
def test_any_profile_agrees_on_any_tensors(
    profile: CodecProfile, tensors: tuple[TensorSpec, ...], seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    delta = {t.name: np.asarray(rng.standard_normal(t.shape) * scale, np.float32) for t in tensors}
    encoded = encode_update(delta, profile, model_digest=MODEL, round_number=1, tensors=tensors)
    decoded = decode_update(encoded.payload, tensors, model_digest=MODEL)
    assert bits(decoded.delta) == bits(encoded.sent)
    if profile.exact:
        assert bits(decoded.delta) == bits(delta)


def test_the_same_update_makes_the_same_bytes_as_ever() -> None:
    """A change here is a change of the format: raise the version."""
    tensors = (TensorSpec("w", (20,)), TensorSpec("b", (2,)), TensorSpec("m", (2,), "statistic"))
    delta = {
        "w": np.array([(-1) ** i * i * i / 64 for i in range(20)], np.float32),
        "b": np.array([0.5, -0.75], np.float32),
        "m": np.array([1.3, 0.0], np.float32),
    }
    profile = CodecProfile(
        "golden", density=0.3, bits=3, whole_share=0.2, whole_mantissa=2, statistic_mantissa=1
    )
    encoded = encode_update(delta, profile, model_digest=MODEL, round_number=258, tensors=tensors)
    assert encoded.payload.hex() == GOLDEN
    assert encoded.sent["b"].tolist() == [0.5, -0.75]
    assert encoded.sent["m"].tolist() == [1.0, 0.0]
    assert np.flatnonzero(encoded.sent["w"]).tolist() == [14, 15, 16, 17, 18, 19]


GOLDEN = (
    "4252555001015a5a5a5a5a5a5a5a020100001800000006000000030201000203000228037e000003"
    "000344057f0007555402000004010003f0080000444000005c3f01540400021d908997ec82"
)


# ---- what is sent, and how well ----


@pytest.mark.parametrize(
    ("name", "ratio", "cosine"), [("safe", 25, 0.88), ("small", 100, 0.5), ("tiny", 240, 0.5)]
)
def test_profiles_keep_their_promise_on_a_middling_model(name: str, ratio: float, cosine: float) -> None:
    tensors = (TensorSpec("w", (300, 200)), TensorSpec("b", (200,)))
    delta = update(5, tensors)
    encoded = encode_update(delta, PROFILES[name], model_digest=MODEL, round_number=99, tensors=tensors)
    sent, produced = flat(encoded.sent), flat(delta)
    assert 4 * produced.size / len(encoded.payload) >= ratio
    assert sent @ produced / np.linalg.norm(sent) / np.linalg.norm(produced) >= cosine


def test_biases_are_never_pruned_and_statistics_stay_between_old_and_new() -> None:
    delta = update(2)
    profile = replace(PROFILES["tiny"], whole_share=0.01)
    sent = encode_update(delta, profile, model_digest=MODEL, round_number=1, tensors=CNN).sent
    assert np.count_nonzero(sent["conv/bias"]) == 8
    assert np.count_nonzero(sent["dense/kernel"]) < 200
    for name in ("bn/mean", "bn/variance"):
        share = sent[name] / delta[name]
        assert (share > 0.75).all()
        assert (share <= 1).all()


def test_pruning_by_tensor_keeps_something_of_every_tensor() -> None:
    tensors = (TensorSpec("loud", (50, 20)), TensorSpec("quiet", (50, 20)))
    delta = update(3, tensors)
    delta["quiet"] *= np.float32(1e-5)
    profile = CodecProfile("t", density=0.02, whole_share=0.0)
    by_model = encode_update(delta, profile, model_digest=MODEL, round_number=1)
    by_tensor = encode_update(delta, replace(profile, scope="tensor"), model_digest=MODEL, round_number=1)
    kept = [np.count_nonzero(e.sent[name]) for e in (by_model, by_tensor) for name in delta]
    assert kept == [40, 0, 20, 20]


def test_warm_up_starts_dense_and_ends_at_the_density() -> None:
    profile = CodecProfile("w", density=0.01, warmup_rounds=3)
    densities = [profile.at_round(r).density for r in range(5)]
    assert densities == pytest.approx([1.0, 1.0, 0.1, 0.01, 0.01])
    profile = CodecProfile("w", density=0.02, warmup_rounds=4, first_density=0.16)
    densities = [profile.at_round(r).density for r in range(1, 7)]
    assert densities == pytest.approx([0.16, 0.08, 0.04, 0.02, 0.02, 0.02])


def test_the_servers_steps_keep_more() -> None:
    profile = CodecProfile("w", density=0.02, warmup_rounds=2, first_density=0.6, step_factor=2.5)
    steps = profile.for_steps
    assert (steps.density, steps.first_density) == pytest.approx((0.05, 1.0))
    assert CodecProfile("b", times=100.0, step_factor=2.5).for_steps.times == 40
    assert PROFILES["safe"].for_steps == PROFILES["safe"]


def low_rank(seed: int, tensors: tuple[TensorSpec, ...]) -> Arrays:
    """As a client's update is: a few outer products, fading, and some noise."""
    rng = np.random.default_rng(seed)
    delta = {}
    for tensor in tensors:
        matrix = 0.1 * rng.standard_normal((int(np.prod(tensor.shape[:-1])), tensor.shape[-1]))
        for number in range(3):
            left, right = (rng.standard_normal(size) for size in matrix.shape)
            matrix += np.outer(left, right) / 2**number
        delta[tensor.name] = (0.01 * matrix).reshape(tensor.shape).astype(np.float32)
    return delta


@pytest.mark.parametrize(("name", "steps", "ratio"), [("small", 0, 100), ("small", 1, 74), ("safe", 0, 25)])
@pytest.mark.parametrize("make", [update, low_rank])
def test_a_payload_has_so_many_times_fewer_bytes_in_every_round(
    name: str, steps: int, ratio: float, make: Callable[..., Arrays]
) -> None:
    tensors = (TensorSpec("conv", (3, 3, 16, 32)), TensorSpec("w", (300, 200)), TensorSpec("b", (200,)))
    profile = PROFILES[name].for_steps if steps else PROFILES[name]
    for number in (1, 20):
        encoded = encode_update(make(number, tensors), profile, model_digest=MODEL, round_number=number)
        assert ratio <= 4 * 64_808 / len(encoded.payload) < 1.9 * ratio  # fewer where positions cluster


def test_components_carry_what_is_of_low_rank() -> None:
    tensors = (TensorSpec("w", (300, 200)),)
    delta = low_rank(1, tensors)
    profile = PROFILES["small"]
    sent = encode_update(delta, profile, model_digest=MODEL, round_number=1).sent["w"]
    kept_alone = replace(profile, times=0.0, density=0.04)
    without = encode_update(delta, kept_alone, model_digest=MODEL, round_number=1).sent["w"]
    lost = [np.sum(np.square(delta["w"] - each)) / np.sum(np.square(delta["w"])) for each in (sent, without)]
    assert lost[0] < 0.15
    assert lost[1] > 0.6


def test_an_outer_product_of_small_integers_arrives_as_it_is() -> None:
    left, right = np.arange(-7, 8) % 8, np.array([7, -3, 0, 1, 2, -5, 4, 6, -1, 3])
    delta = {"w": (np.outer(left, right) / 64).astype(np.float32)}
    profile = CodecProfile("one", times=5.0, level=7, bits=1)
    sent = encode_update(delta, profile, model_digest=MODEL, round_number=1).sent["w"]
    np.testing.assert_allclose(sent, delta["w"], atol=1e-6)


def test_a_model_smaller_than_the_headers_still_gets_values_across() -> None:
    delta = {"w": np.array([[0, 0.5], [0, 0]], np.float32), "b": np.zeros(1, np.float32)}
    sent = encode_update(delta, PROFILES["small"], model_digest=MODEL, round_number=1).sent
    assert sent["w"].tolist() == [[0, 0.5], [0, 0]]


def test_bytes_and_a_warm_up_contradict_each_other() -> None:
    for settings_ in ({"warmup_rounds": 3}, {"bits": 32}):
        with pytest.raises(RecordError, match="times"):
            CodecProfile("x", times=10.0, **settings_)  # type: ignore[arg-type]


def test_stochastic_rounding_needs_bits_and_a_generator() -> None:
    with pytest.raises(RecordError, match="stochastic"):
        CodecProfile("s", bits=1, rounding="stochastic")
    profile = CodecProfile("s", bits=2, rounding="stochastic")
    with pytest.raises(CodecError, match="rng"):
        encode_update(update(1), profile, model_digest=MODEL, round_number=1)
    rng = np.random.default_rng(1)
    encoded = encode_update(update(1), profile, model_digest=MODEL, round_number=1, tensors=CNN, rng=rng)
    assert bits(decode_update(encoded.payload, CNN, model_digest=MODEL).delta) == bits(encoded.sent)


# ---- error feedback ----


@pytest.mark.parametrize("name", ["lossless", "safe", "small", "tiny"])
def test_what_was_sent_and_the_residual_add_up_over_a_hundred_lossy_rounds(name: str) -> None:
    rng = np.random.default_rng(11)
    trainable = [t.name for t in CNN if t.role == "trainable"]
    produced = {t.name: np.zeros(t.shape) for t in CNN}
    arrived = {t.name: np.zeros(t.shape) for t in CNN}
    residual: Arrays | None = None
    for number in range(1, 101):
        delta = update(number)
        encoded, owed = with_feedback(
            delta, residual, PROFILES[name], model_digest=MODEL, round_number=number, tensors=CNN
        )
        if rng.random() < 0.3:  # refused, lost or aborted: the old residual stands, the training is given up
            continue
        residual = owed
        received = decode_update(encoded.payload, CNN, model_digest=MODEL).delta
        for key in produced:
            produced[key] += delta[key]
            arrived[key] += received[key]
    assert residual is not None
    for key in trainable:
        scale = np.abs(produced[key]).max()
        np.testing.assert_allclose(arrived[key] + residual[key], produced[key], atol=1e-4 * scale)
        if name == "lossless":
            assert not residual[key].any()
    for key in set(produced) - set(trainable):
        assert not residual[key].any()


def test_a_residual_of_another_model_is_refused() -> None:
    delta = update(1)
    other = {name: array for name, array in update(2).items() if name != "temperature"}
    with pytest.raises(CodecError, match="residual"):
        with_feedback(delta, other, PROFILES["small"], model_digest=MODEL, round_number=1)


def test_inputs_are_left_as_they_were() -> None:
    delta, residual = update(1), update(2)
    before = bits(delta), bits(residual)
    for profile in PROFILES.values():
        with_feedback(delta, residual, profile, model_digest=MODEL, round_number=1, tensors=CNN)
    assert (bits(delta), bits(residual)) == before


# ---- refused when coding ----


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", PROFILES)
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    delta = update(1)
    delta["dense/kernel"][3, 4] = value
    with pytest.raises(CodecError, match="dense/kernel"):
        encode_update(delta, PROFILES[name], model_digest=MODEL, round_number=1, tensors=CNN)


def test_what_cannot_be_coded_is_named() -> None:
    delta = update(1)
    safe = PROFILES["safe"]
    wide = {name: array.astype(np.float64) for name, array in delta.items()}
    with pytest.raises(CodecError, match="float64"):
        encode_update(wide, safe, model_digest=MODEL, round_number=1)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="diverged"):
        encode_update(
            delta | {"conv/bias": np.full(8, 1e38, np.float32)}, safe, model_digest=MODEL, round_number=1
        )
    with pytest.raises(CodecError, match="conv/bias"):
        encode_update(
            delta | {"conv/bias": np.zeros(9, np.float32)},
            safe,
            model_digest=MODEL,
            round_number=1,
            tensors=CNN,
        )
    with pytest.raises(CodecError, match="number"):
        encode_update(delta, safe, model_digest=MODEL, round_number=1, tensors=CNN[:-1])
    for digest in ("zz" * 32, "ab"):
        with pytest.raises(CodecError, match="digest"):
            encode_update(delta, safe, model_digest=digest, round_number=1)
    for number in (-1, 1 << 32):
        with pytest.raises(CodecError, match="round"):
            encode_update(delta, safe, model_digest=MODEL, round_number=number)


# ---- whole models ----


@pytest.mark.parametrize("quick", [False, True])
def test_a_packed_model_comes_back_bit_for_bit_and_is_smaller(quick: bool) -> None:
    weights = update(9)
    packed = pack_model(weights, quick=quick)
    assert bits(unpack_model(packed, CNN)) == bits(weights)
    assert len(packed) < 0.9 * 4 * flat(weights).size


def test_a_fresh_model_of_zeros_and_ones_packs_to_almost_nothing() -> None:
    tensors = (TensorSpec("w", (1000, 1000)), TensorSpec("gamma", (1000,)))
    weights = {"w": np.zeros((1000, 1000), np.float32), "gamma": np.ones(1000, np.float32)}
    packed = pack_model(weights)
    assert len(packed) < 500
    assert bits(unpack_model(packed, tensors)) == bits(weights)


def test_a_model_packed_quickly_is_little_larger() -> None:
    weights = {"w": np.random.default_rng(4).standard_normal((300, 200)).astype(np.float32)}
    assert len(pack_model(weights, quick=True)) < 1.05 * len(pack_model(weights))
    none = {"w": np.zeros((300, 200), np.float32)}
    assert len(pack_model(none, quick=True)) < 2000


def test_a_large_plane_of_repeated_values_is_found_out() -> None:
    table = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32)
    weights = {"w": np.tile(table, (20, 20))}
    packed = pack_model(weights)
    assert len(packed) < 0.2 * 4 * weights["w"].size
    assert bits(unpack_model(packed, [TensorSpec("w", (1280, 1280))])) == bits(weights)


def test_models_that_do_not_fit_are_refused() -> None:
    packed = pack_model(update(1))
    renamed = (replace(CNN[0], name="other"), *CNN[1:])
    for tensors in (renamed, CNN[:-1], (*CNN, TensorSpec("more", (3,)))):
        with pytest.raises(CodecError, match="other tensors"):
            unpack_model(packed, tensors)
    with pytest.raises(CodecError, match="finite"):
        pack_model({"w": np.array([np.nan], np.float32)})
