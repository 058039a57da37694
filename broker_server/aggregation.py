"""From a round's results to the next step of the weights: the strategy at work on what lies on the disk."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from broker_server.config import ServerConfig
from broker_server.decoded import DecodedResult, DecodedResults, decode_result
from broker_server.errors import RunError
from broker_server.members import example_limit, members
from broker_server.rounds.policy import late_policy
from broker_server.store.ledger import Ledger
from broker_server.store.payloads import Payloads
from broker_server.strategies import ClientUpdate, Fleet
from broker_server.strategy_state import NextState, StrategyState
from compression.spec import ModelSpec, Weights
from compression.updates import CodecProfile
from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.rounds import Result, TrainingReport


class Aggregation:
    """The strategy of one run and one training bundle.

    Attributes:
        personal: names of the tensors that stay on the devices.
        state: what the strategy remembers.
        decoded: updates of the round at work, from when they were checked.

    Raises:
        RunError: the strategy does not fit the model.
    """

    def __init__(
        self,
        config: ServerConfig,
        ledger: Ledger,
        artefacts: BlobStore,
        payloads: Payloads,
        spec: ModelSpec,
        bundle_digest: str,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._payloads = payloads
        self._spec = spec
        self._digest = bundle_digest
        self._late = late_policy(config)
        self.decoded = DecodedResults()
        try:
            self.personal = config.strategy.personal(spec)
        except ValueError as exc:
            raise RunError(str(exc)) from exc
        self._shared = spec.without(self.personal)
        self.state = StrategyState(ledger, artefacts, config.strategy, spec, bundle_digest)

    def step(
        self, results: Mapping[str, Result], index: int, round_number: int, profile: CodecProfile
    ) -> tuple[Weights, NextState]:
        """The step of all tensors, and the next state, written but not counted yet.

        Args:
            results: that count for the stage, by device.
            index: of the stage.
            profile: of the server's steps.
        """
        before = self.state.read()
        claims = self._claims(results)
        limit = example_limit(claims, self._config)
        updates = self._updates(results, index, limit)
        after, step = self._config.strategy.aggregate(before, updates, self._fleet(claims, limit))
        return self._whole(step), self.state.write(before, after, profile, round_number)

    def staleness(self, result: Result, index: int) -> int:
        """How many stages before this one its task was published."""
        stage = self._ledger.stage_of(result.task)
        return 0 if stage is None else index - stage

    def _whole(self, step: Weights) -> Weights:
        """Tensors that stay on the devices do not move here."""
        return {
            tensor.name: step.get(tensor.name, np.zeros(tensor.shape, np.float32))
            for tensor in self._spec.tensors
        }

    def _claims(self, here: Collection[str]) -> list[int]:
        """Examples that each device of the fleet says it has; `here` have sent a result."""
        counted = members(self._ledger, self._config, present=here)
        hellos = self._ledger.devices().items()
        return [hello.data.examples for name, hello in hellos if name in counted]

    def _fleet(self, claims: Sequence[int], limit: int) -> Fleet:
        return Fleet(
            examples=sum(min(claim, limit) for claim in claims),
            devices=len(claims),
            statistics=frozenset(t.name for t in self._spec.tensors if t.role == "statistic"),
            optimizer=self._config.model.optimizer,
        )

    def _updates(self, results: Mapping[str, Result], index: int, limit: int) -> Iterator[ClientUpdate]:
        """One decoded update at a time, in order of the devices' names: the sum is the same every time."""
        hellos = self._ledger.devices()
        for device, result in results.items():
            if result.payload is None or result.training is None:
                raise RunError(f"the ledger counts a result of {device} without an update")
            said = hellos[device].data.examples  # what a device claims now cannot exceed what it said first
            claimed = max(1, min(result.training.examples, said))
            examples = min(claimed, limit)
            decoded = self._decoded(result.payload, result.training)
            yield ClientUpdate(
                delta=decoded.update.delta,
                examples=examples,
                steps=max(1, min(result.training.steps, self._steps(claimed))),
                discount=self._late.discount(self.staleness(result, index)),
                variate=decoded.change,
                counted_steps=self._steps(examples),
            )

    def _decoded(self, payload: BlobRef, report: TrainingReport) -> DecodedResult:
        if (kept := self.decoded.of(payload, report)) is not None:
            return kept
        return decode_result(self._payloads.read(payload), report, self._shared, self._digest)

    def _steps(self, examples: int) -> int:
        """That so many examples take in a round."""
        return self._config.rounds.epochs * math.ceil(examples / self._spec.batch_size)
