"""Losses from logits: the loss of each example and its gradient, both written out.

Writing the gradient out keeps it exact at the ends (no ``log(0)``) and free of ops that TFLite lacks.
One logit means two classes, label 1 being the positive one.

Focal loss: Lin et al., "Focal Loss for Dense Object Detection", 2017, with gamma 2 and no alpha (give
`class_weights` instead). The squared error is that of the probabilities (the Brier score), the mean over
the outputs, as Keras has it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from compression.spec import Loss
from compression.trainable.errors import TrainableError

Tensor = Any
FOCAL_GAMMA = 2.0


class LossValue(NamedTuple):
    """Loss of each example [B] and its gradient with respect to the logits [B, K]."""

    value: Tensor
    gradient: Tensor


def check_loss(loss: Loss, outputs: int, classes: int) -> None:
    """Raise `TrainableError` unless the network's outputs suit the loss and the classes."""
    if outputs == 1 and loss != "categorical_crossentropy" and classes == 2:
        return
    if outputs == classes and loss != "binary_crossentropy":
        return
    wanted = f"{classes} outputs with categorical_crossentropy"
    if classes == 2:
        wanted = f"1 output with binary_crossentropy, or {wanted}"
    raise TrainableError(
        f"{loss} over {classes} classes does not fit a model of {outputs} outputs: use {wanted}"
    )


def probabilities(logits: Tensor) -> Tensor:
    """[B, classes]; one logit becomes two columns."""
    if logits.shape[1] > 1:
        return tf.nn.softmax(logits)
    positive = tf.sigmoid(logits)
    return tf.concat([tf.sigmoid(-logits), positive], axis=1)


def loss_value(loss: Loss, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> LossValue:
    """The loss of each example."""
    if logits.shape[1] == 1:
        target = tf.cast(labels, tf.float32)
        smooth = target * (1.0 - label_smoothing) + 0.5 * label_smoothing
        value, gradient = _binary(loss, logits[:, 0], target, smooth)
        return LossValue(value, gradient[:, tf.newaxis])
    classes = logits.shape[1]
    target = tf.cast(tf.equal(labels[:, tf.newaxis], tf.range(classes)[tf.newaxis, :]), tf.float32)
    return _categorical(loss, logits, target, target * (1.0 - label_smoothing) + label_smoothing / classes)


def _softplus(x: Tensor) -> Tensor:
    return tf.nn.relu(x) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))


def _binary(loss: Loss, z: Tensor, target: Tensor, smooth: Tensor) -> LossValue:
    if loss == "focal":
        sign = 2.0 * target - 1.0
        log_p = -_softplus(-sign * z)
        p = tf.sigmoid(sign * z)
        wrong = (1.0 - p) * (1.0 - p)
        return LossValue(-wrong * log_p, sign * wrong * (FOCAL_GAMMA * p * log_p - (1.0 - p)))
    p = tf.sigmoid(z)
    if loss == "mean_squared_error":
        error = p - smooth
        return LossValue(error * error, 2.0 * error * p * (1.0 - p))
    return LossValue(_softplus(z) - z * smooth, p - smooth)


def _categorical(loss: Loss, logits: Tensor, target: Tensor, smooth: Tensor) -> LossValue:
    p = tf.nn.softmax(logits)
    if loss == "mean_squared_error":
        error = p - smooth
        along = tf.reduce_sum(error * p, axis=1, keepdims=True)
        return LossValue(tf.reduce_mean(error * error, axis=1), 2.0 / logits.shape[1] * p * (error - along))
    log_p = tf.nn.log_softmax(logits)
    if loss == "focal":
        log_true = tf.reduce_sum(target * log_p, axis=1, keepdims=True)
        p_true = tf.exp(log_true)
        slope = (1.0 - p_true) * (FOCAL_GAMMA * p_true * log_true - (1.0 - p_true))
        wrong = (1.0 - p_true) * (1.0 - p_true)
        return LossValue((-wrong * log_true)[:, 0], slope * (target - p))
    return LossValue(-tf.reduce_sum(smooth * log_p, axis=1), p - smooth)
