"""Architectures to train: the zoo by name, and a user's own by ``module:function``."""

from broker_server.models.zoo import MODELS, ModelEntry, ModelError, build_model

__all__ = ["MODELS", "ModelEntry", "ModelError", "build_model"]
