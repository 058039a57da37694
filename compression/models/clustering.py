"""Weight clustering, by tensorflow-model-optimization: each kernel takes a few values only."""

from __future__ import annotations

from typing import Any

import numpy as np

from compression.models.network import KERNELS, clone, kernel_of, wrapped
from compression.models.pruning import PRUNED, Fit
from compression.models.recipes import Clustering
from compression.tf import tensorflow


def cluster(model: Any, clustering: Clustering, fit: Fit, *, keep_zeros: bool) -> tuple[Any, tuple[str, ...]]:
    """A copy with clustered kernels, and which layers were left as they are, with the reason.

    Args:
        keep_zeros: zero is one of the values, and what is zero stays zero.
    """
    tensorflow()
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster import (
        cluster_weights,
    )

    centroids = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    skipped: list[str] = []

    def wrap(layer: Any) -> Any:
        reason = reason_to_skip(layer, clustering)
        if reason is None:
            return cluster_weights(
                layer,
                number_of_clusters=clustering.clusters,
                cluster_centroids_init=centroids,
                preserve_sparsity=keep_zeros,
            )
        if layer.weights:
            skipped.append(f"{layer.name} ({reason})")
        return layer

    clustered = wrapped(model, wrap)
    fit(clustered, epochs=clustering.epochs, what="clustering", callbacks=[])
    return clone(tfmot.clustering.keras.strip_clustering(clustered)), tuple(skipped)


def reason_to_skip(layer: Any, clustering: Clustering) -> str | None:
    """Why a layer is not clustered; None if it is."""
    kind = type(layer).__name__
    if not layer.trainable:
        return "frozen"
    if kind not in PRUNED:
        return f"{kind} is not clustered" if kind in KERNELS else f"{kind} has no kernel"
    count = int(np.count_nonzero(kernel_of(layer).numpy()))
    if count <= 2 * clustering.clusters:
        return f"{count} weights are too few for {clustering.clusters} values"
    return None
