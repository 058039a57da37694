"""How one data set is dealt out to simulated clients.

``iid`` deals at random and evenly. ``sizes:35,25,22,18`` deals at random in these proportions.
``dirichlet:ALPHA`` skews the labels: for each class the clients' shares are drawn from a symmetric
Dirichlet distribution, so that a small alpha leaves clients with little of a class or none. The
distribution and the meaning of alpha are those of Hsu, Qi and Brown (2019, arXiv:1909.06335), who
draw a class mix for each of many clients of one size; drawing a client mix for each class, so that
sizes differ as well and every example is dealt once, follows Yurochkin et al. (2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from broker_server.simulation.errors import SimulationError

MIN_EXAMPLES = 2  # one to train on and one to validate on
ALPHAS = (1e-3, 1e6)
MAX_DEVICES = 1000
FORMS = "iid, dirichlet:ALPHA (e.g. dirichlet:0.5) or sizes:PARTS (e.g. sizes:35,25,22,18)"

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Partition:
    """A parsed partition; ``str`` gives its text back."""

    kind: Literal["iid", "dirichlet", "sizes"]
    devices: int
    alpha: float = 0.0
    sizes: tuple[float, ...] = ()

    def __str__(self) -> str:
        if self.kind == "dirichlet":
            return f"dirichlet:{self.alpha:g}"
        if self.kind == "sizes":
            return "sizes:" + ",".join(f"{size:g}" for size in self.sizes)
        return "iid"


def parse_partition(text: str, devices: int) -> Partition:
    """Read a partition for so many devices.

    Raises:
        SimulationError: an unknown kind, or numbers that make no sense for it.
    """
    if not 1 <= devices <= MAX_DEVICES:
        raise SimulationError(f"{devices} devices: expected 1 to {MAX_DEVICES}")
    kind, _, rest = text.partition(":")
    if text == "iid":
        return Partition("iid", devices)
    if kind == "dirichlet" and rest:
        alpha = _number(rest, text)
        if not ALPHAS[0] <= alpha <= ALPHAS[1]:
            raise SimulationError(f"partition {text!r}: alpha must be from {ALPHAS[0]:g} to {ALPHAS[1]:g}")
        return Partition("dirichlet", devices, alpha=alpha)
    if kind == "sizes" and rest:
        sizes = tuple(_number(part, text) for part in rest.split(","))
        if not all(0 < size < np.inf for size in sizes):
            raise SimulationError(f"partition {text!r}: each part must be more than 0")
        if len(sizes) != devices:
            raise SimulationError(f"partition {text!r}: {len(sizes)} parts for {devices} devices")
        return Partition("sizes", devices, sizes=sizes)
    raise SimulationError(f"partition {text!r}: expected {FORMS}")


def partition(
    labels: npt.NDArray[np.integer], how: str | Partition, devices: int, rng: np.random.Generator
) -> list[Index]:
    """Deal the examples out; each goes to exactly one client, and each client gets at least two.

    Args:
        labels: [N] class indices.
        how: see the module.
        devices: number of clients.
        rng: what the deal is drawn from.

    Returns:
        For each client the positions of its examples, ascending.

    Raises:
        SimulationError: a partition that cannot be read, or too few examples for so many clients.
    """
    plan = how if isinstance(how, Partition) else parse_partition(how, devices)
    if len(labels) < MIN_EXAMPLES * devices:
        raise SimulationError(f"{len(labels)} examples are too few for {devices} devices: use fewer devices")
    if plan.kind == "dirichlet":
        parts = _by_class(labels, plan.alpha, devices, rng)
    else:
        shares = np.asarray(plan.sizes) if plan.kind == "sizes" else np.ones(devices)
        parts = _cut(rng.permutation(len(labels)), shares / shares.sum())
    _fill_up(parts, labels)
    return [np.sort(part) for part in parts]


def _by_class(
    labels: npt.NDArray[np.integer], alpha: float, devices: int, rng: np.random.Generator
) -> list[Index]:
    hands: list[list[Index]] = [[] for _ in range(devices)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        for hand, part in zip(hands, _cut(members, rng.dirichlet(np.full(devices, alpha))), strict=True):
            hand.append(part)
    return [np.concatenate(hand) for hand in hands]


def _cut(order: Index, shares: npt.NDArray[np.float64]) -> list[Index]:
    """Consecutive pieces whose lengths are the shares rounded so that nothing is left over."""
    borders = np.rint(np.cumsum(shares) * len(order)).astype(np.int64)
    borders[-1] = len(order)
    return [order[start:end] for start, end in pairwise((0, *borders.tolist()))]


def _fill_up(parts: list[Index], labels: npt.NDArray[np.integer]) -> None:
    """Move examples of the largest client's commonest class to clients with too few."""
    for poor, part in enumerate(parts):
        for _ in range(MIN_EXAMPLES - len(part)):
            rich = max(range(len(parts)), key=lambda client: len(parts[client]))
            of_rich = labels[parts[rich]]
            values, counts = np.unique(of_rich, return_counts=True)
            moved = int(np.flatnonzero(of_rich == values[counts.argmax()])[-1])
            parts[poor] = np.append(parts[poor], parts[rich][moved])
            parts[rich] = np.delete(parts[rich], moved)


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SimulationError(f"partition {whole!r}: {text!r} is not a number; expected {FORMS}") from None
