"""What somebody wants done with the models: written into the ledger by a command, carried out by the server.

One process at a time leads a fleet. A command that finds a server at work leaves its order there and waits
for the answer; one that finds none leads the fleet itself until its rollout is over.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from broker_server.store.ledger import Ledger
from broker_server.store.models import ModelStore
from compression.records import Between, Length, Matches, Record, RecordError, dumps
from edge_client.wire.blobs import BlobRef
from edge_client.wire.topics import NAME_PATTERN

MAX_ORDER_BYTES = 1 << 20
REFUSED = "refused: "  # what the answer to an order that was not carried out begins with
LOOK_S = 0.2
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


def leave_order(ledger: Path, order: Order) -> int:
    """Write an order down beside a running server, or for the next one; its number."""
    book = Ledger(ledger, writer=False)
    try:
        return ModelStore(book.connection).give_order(dumps(order).decode(), time.time())
    finally:
        book.close()


def await_answer(ledger: Path, number: int, timeout_s: float) -> str | None:
    """What the server at work made of an order; None if it does not say in time."""
    book, deadline = Ledger(ledger, writer=False), time.monotonic() + timeout_s
    try:
        store = ModelStore(book.connection)
        while (answer := store.answer(number)) is None and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        return answer
    finally:
        book.close()
