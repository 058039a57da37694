"""What a strategy is: settings in `server.toml`, and a function from state and updates to state and step.

A strategy is a frozen record of its parameters. `aggregate` takes its state and the updates one after the
other and hands back the next state and the step of the global weights: no I/O, no clock, no chance. What
devices do differently is said by a few attributes, which become fields of the task.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from compression.records import Between, Record
from compression.spec import ModelSpec, Optimizer, Weights

State = Mapping[str, Weights]  # what a strategy remembers: sets of trainable tensors by name

Rate = Annotated[float, Between(1e-6, 100.0)]
Decay = Annotated[float, Between(0.0, 0.9999)]


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """One client's part in a round.

    Attributes:
        delta: local minus global, of the tensors that travel.
        examples: that it trained on, capped.
        steps: of the local optimiser.
        discount: what staleness leaves of its weight; 1 for a fresh one.
        variate: change of its control variate, of the trainable tensors; None unless the strategy has one.
        counted_steps: of `steps` what its capped examples allow; None for all.
    """

    delta: Weights
    examples: int
    steps: int = 1
    discount: float = 1.0
    variate: Weights | None = None
    counted_steps: int | None = None

    @property
    def weight(self) -> float:
        """In an average."""
        return self.examples * self.discount


@dataclass(frozen=True, slots=True)
class Fleet:
    """What holds for all updates of a round.

    Attributes:
        examples: of all devices that take part in the run, asked this time or not.
        devices: how many these are; 0 where it does not matter.
        statistics: names of the tensors that no gradient moves: they are averaged, whatever the strategy.
        optimizer: of the devices.
    """

    examples: int
    statistics: frozenset[str] = frozenset()
    optimizer: Optimizer = "sgd"
    devices: int = 0

    @property
    def mean_examples(self) -> float:
        """Of one device; 0 where the number of devices is not known."""
        return self.examples / self.devices if self.devices else 0.0

    def trained(self, delta: Weights) -> Weights:
        """The tensors that gradients move."""
        return {name: array for name, array in delta.items() if name not in self.statistics}

    def measured(self, delta: Weights) -> Weights:
        """The others."""
        return {name: array for name, array in delta.items() if name in self.statistics}


class Strategy(Record):
    """Base of all strategies.

    Attributes:
        PAPER: where it is described.
        CONTROL: whether devices keep a control variate and report how it changed.
        BUFFERED: whether rounds overlap: devices go on from the newest weights whenever they are free.
    """

    __slots__ = ()
    TAG_KEY: ClassVar[str] = "name"
    PAPER: ClassVar[str] = ""
    CONTROL: ClassVar[bool] = False
    BUFFERED: ClassVar[bool] = False

    @property
    def proximal_mu(self) -> float:
        """Weight of the devices' proximal term."""
        return 0.0

    def personal(self, spec: ModelSpec) -> tuple[str, ...]:
        """Names of the tensors that stay on each device; raise `ValueError` if that leaves none to share."""
        del spec
        return ()

    def problem(self, optimizer: Optimizer) -> str | None:
        """Why it does not go with the devices' optimiser; None if it does."""
        del optimizer
        return None

    @abstractmethod
    def aggregate(self, state: State, updates: Iterable[ClientUpdate], fleet: Fleet) -> tuple[State, Weights]:
        """The next state, and the step of the global weights; one update in memory at a time.

        Raises:
            ValueError: no update.
        """
