"""The rounds of a run in the report: how the model came along, who took part, what was sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from broker_server.report.fields import Amount, Count, Ratio, Sentence, Share
from compression.records import Record
from edge_client.wire.topics import DeviceName


@dataclass(frozen=True, slots=True)
class RoundFigures(Record):
    """One finished round.

    Attributes:
        accuracy, loss, auc: of the new global weights on the held-out examples.
        federated_accuracy: of the same weights over the devices' own validation examples, pooled by
            counts; devices evaluate what the next round brings them, so it is the last figure to come.
        clients: whose updates were counted.
        dropped: who was asked and not counted, and why.
        released: who was still at work when there were enough results.
        sparsity: share of zeros among the kernels of the new weights, where the run prunes.
        chosen, passed: who was asked and who was not, and why; empty where everyone is asked.
        bytes_up, bytes_down: of all devices together in this round.
    """

    round: Count
    accuracy: Share | None = None
    loss: float | None = None
    auc: Share | None = None
    federated_accuracy: Share | None = None
    clients: tuple[DeviceName, ...] = ()
    dropped: Mapping[DeviceName, Sentence] = field(default_factory=dict)
    released: tuple[DeviceName, ...] = ()
    chosen: Mapping[DeviceName, Sentence] = field(default_factory=dict)
    passed: Mapping[DeviceName, Sentence] = field(default_factory=dict)
    bytes_up: Count | None = None
    bytes_down: Count | None = None
    seconds: Amount | None = None
    sparsity: Share | None = None


@dataclass(frozen=True, slots=True)
class ByteFigures(Record):
    """Traffic of training. Ratios say how many times less was sent than plain float32 weights would be.

    Attributes:
        up_per_client_round: mean over every update that was counted.
        down_per_client_round: mean over every device that was asked, counted in the end or not.
        setup_total: to all devices together, once a run: the training program and the first weights.
        closing_up_total: from all devices together after the last round: their evaluation of its weights.
        counted: what the figures include, as a sentence.
    """

    float32_per_client_round: Count | None = None
    up_per_client_round: Amount | None = None
    down_per_client_round: Amount | None = None
    ratio_up: Ratio | None = None
    ratio_down: Ratio | None = None
    up_total: Count | None = None
    down_total: Count | None = None
    setup_total: Count | None = None
    closing_up_total: Count | None = None
    counted: Sentence | None = None

    @classmethod
    def of(
        cls,
        rounds: Sequence[RoundFigures],
        *,
        float32_bytes: int,
        setup_total: int | None = None,
        closing_up_total: int | None = None,
        counted: str | None = None,
    ) -> ByteFigures:
        """From the rounds; `float32_bytes` is the size of all weights as plain float32."""
        up = _total([r.bytes_up for r in rounds])
        down = _total([r.bytes_down for r in rounds])
        up_mean = _per(up, sum(len(r.clients) for r in rounds))
        down_mean = _per(down, sum(len(r.clients) + len(r.dropped) + len(r.released) for r in rounds))
        return cls(
            float32_per_client_round=float32_bytes,
            up_per_client_round=up_mean,
            down_per_client_round=down_mean,
            ratio_up=float32_bytes / up_mean if up_mean and float32_bytes else None,
            ratio_down=float32_bytes / down_mean if down_mean and float32_bytes else None,
            up_total=up,
            down_total=down,
            setup_total=setup_total,
            closing_up_total=closing_up_total,
            counted=counted,
        )


def _total(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _per(total: int | None, parts: int) -> float | None:
    return total / parts if total is not None and parts else None
