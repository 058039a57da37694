"""What somebody wants done with the models: written into the ledger by a command, carried out by the server.

One process at a time leads a fleet. A command that finds a server at work leaves its order there and waits
for the answer; one that finds none leads the fleet itself until its rollout is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compression.records import Between, Length, Matches, Record, RecordError
from edge_client.wire.blobs import BlobRef
from edge_client.wire.topics import NAME_PATTERN

MAX_ORDER_BYTES = 1 << 20
Kind = Literal["push", "promote", "rollback", "pause", "pin", "unpin"]


@dataclass(frozen=True, slots=True)
class Order(Record):
    """One thing to do.

    Attributes:
        kind: what.
        version: to promote, to roll back to or to pin at; 0 for the one at work, the one before, or none.
        device: to pin or to let go.
        model: of a push, already among the models' files.
        origin, recipe: of a push, for the registry.
        everyone: of a promotion: all further waves at once.
    """

    kind: Kind
    version: Annotated[int, Between(0, 1 << 53)] = 0
    device: Annotated[str, Matches(rf"({NAME_PATTERN})?")] = ""
    model: BlobRef | None = None
    origin: Annotated[str, Length(0, 500)] = ""
    recipe: Annotated[str, Length(0, 500)] = ""
    everyone: bool = False

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.kind == "push" and self.model is None:
            raise RecordError("Order: a push needs a model")
        if self.kind in ("pin", "unpin") and not self.device:
            raise RecordError(f"Order: {self.kind} needs a device")
