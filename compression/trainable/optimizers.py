"""Optimisers over one flat vector of parameters, with Keras' defaults and formulas.

State is `slots` vectors as long as the parameters and two scalars, the running powers of Adam's betas; all
of it starts at zero, so that resetting is one fill (Kingma and Ba, 2015; Loshchilov and Hutter, 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from compression.spec import Optimizer

Tensor = Any

MOMENTUM = 0.9
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # tf_keras.optimizers.Adam
WEIGHT_DECAY = 0.004  # tf_keras.optimizers.AdamW


@dataclass(frozen=True, slots=True)
class State:
    """What an optimiser remembers between steps."""

    slots: tuple[Tensor, ...]
    decayed: Tensor  # [2]: 1 - beta_1^t and 1 - beta_2^t


Step = Callable[[Tensor, Tensor, State, Tensor], tuple[Tensor, State]]


@dataclass(frozen=True, slots=True)
class OptimizerRule:
    """How many vectors of state, and the step (w, gradient, state, learning rate) -> (w, state)."""

    slots: int
    step: Step


def _sgd(w: Tensor, g: Tensor, state: State, rate: Tensor) -> tuple[Tensor, State]:
    return w - rate * g, state


def _momentum(w: Tensor, g: Tensor, state: State, rate: Tensor) -> tuple[Tensor, State]:
    velocity = MOMENTUM * state.slots[0] - rate * g
    return w + velocity, State((velocity,), state.decayed)


def _nesterov(w: Tensor, g: Tensor, state: State, rate: Tensor) -> tuple[Tensor, State]:
    velocity = MOMENTUM * state.slots[0] - rate * g
    return w + (MOMENTUM * velocity - rate * g), State((velocity,), state.decayed)


def _adam(w: Tensor, g: Tensor, state: State, rate: Tensor) -> tuple[Tensor, State]:
    m, v = state.slots
    betas = tf.constant([BETA_1, BETA_2])
    decayed = betas * state.decayed + (1.0 - betas)  # 1 - beta^t without a power
    m = m + (1.0 - BETA_1) * (g - m)
    v = v + (1.0 - BETA_2) * (g * g - v)
    alpha = rate * tf.sqrt(decayed[1]) / decayed[0]
    return w - alpha * m / (tf.sqrt(v) + EPSILON), State((m, v), decayed)


def _adamw(w: Tensor, g: Tensor, state: State, rate: Tensor) -> tuple[Tensor, State]:
    return _adam(w - rate * WEIGHT_DECAY * w, g, state, rate)


OPTIMIZERS: dict[Optimizer, OptimizerRule] = {
    "sgd": OptimizerRule(0, _sgd),
    "momentum": OptimizerRule(1, _momentum),
    "nesterov": OptimizerRule(1, _nesterov),
    "adam": OptimizerRule(2, _adam),
    "adamw": OptimizerRule(2, _adamw),
}


def initial_state(rule: OptimizerRule, vectors: Sequence[Tensor], decayed: Tensor) -> State:
    """State from the program's variables."""
    return State(tuple(vectors[: rule.slots]), decayed)
