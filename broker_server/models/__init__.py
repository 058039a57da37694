"""Architectures to train: the zoo by name, and a user's own by ``module:function``."""

from broker_server.models.errors import ModelError
from broker_server.models.zoo import MODELS, RANDOM, TRANSFER, ModelEntry, build_model, find_entry

__all__ = ["MODELS", "RANDOM", "TRANSFER", "ModelEntry", "ModelError", "build_model", "find_entry"]
