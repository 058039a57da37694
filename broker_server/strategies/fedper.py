"""FedPer: the last layers stay on each device; the rest is averaged.

Arivazhagan et al., Federated Learning with Personalization Layers, 2019, https://arxiv.org/abs/1912.00818.
Personal tensors are trained with the others, kept on the device, and never sent; a device evaluates and goes
on with its own. The global weights keep the first values of them, so a model made of the global weights alone
is of no use: nothing can be released from such a run, and the server does not evaluate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from broker_server.strategies.fedavg import FedAvg
from compression.records import Length
from compression.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class FedPer(FedAvg):
    """The mean of what is shared.

    Attributes:
        layers: whose tensors stay on the devices, by name; none is the last layer that has weights.
    """

    TAG: ClassVar[str] = "fedper"
    PAPER: ClassVar[str] = "Arivazhagan et al., 2019"
    layers: tuple[Annotated[str, Length(1, 128)], ...] = ()

    def personal(self, spec: ModelSpec) -> tuple[str, ...]:
        """All tensors of the personal layers, in the order of the spec."""
        names = [tensor.name for tensor in spec.tensors]
        layers = set(self.layers) or {layer_of(spec.trainable.tensors[-1].name)}
        if unknown := sorted(layers - {layer_of(name) for name in names}):
            known = ", ".join(dict.fromkeys(layer_of(name) for name in names))
            raise ValueError(f"fedper: there is no layer {unknown[0]!r}; the model has {known}")
        chosen = tuple(name for name in names if layer_of(name) in layers)
        if len(chosen) == len(names):
            raise ValueError("fedper: all layers are personal, nothing is left to share")
        return chosen


def layer_of(tensor: str) -> str:
    """The layer that a tensor belongs to: ``block/conv`` of ``block/conv/kernel``."""
    return tensor.rpartition("/")[0] or tensor
