"""The training compiler: a Keras model becomes a TFLite program that trains it, builtin ops only."""

from compression.trainable.compiler import CompileResult, compile_trainable
from compression.trainable.errors import TrainableError
from compression.trainable.variables import keras_weights, load_keras_weights

__all__ = ["CompileResult", "TrainableError", "compile_trainable", "keras_weights", "load_keras_weights"]
