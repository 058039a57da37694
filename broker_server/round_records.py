"""What later results add to the record of a round, as functions of records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import add

from broker_server.records import ClientRecord, FineTuning, RoundRecord
from edge_client.wire.rounds import Result


def with_evaluation(record: RoundRecord, results: Mapping[str, Result]) -> RoundRecord:
    """Devices evaluate what they receive: a round's results complete the record of the one before."""
    sums = [result.evaluation for result in results.values() if result.evaluation is not None]
    return replace(record, federated=reduce(add, sums)) if sums else record


def with_traffic(record: RoundRecord, clients: Mapping[str, ClientRecord], dropped_bytes: int) -> RoundRecord:
    """The last round's step goes out with the evaluation: its bytes belong to that round.

    What devices send then is no update: their sums, for the released model too, are several times larger than
    a small model's and are counted apart.
    """
    parts = {
        name: replace(part, bytes_down=part.bytes_down + clients[name].bytes_down)
        if name in clients
        else part
        for name, part in record.clients.items()
    }
    others = sum(client.bytes_down for name, client in clients.items() if name not in record.clients)
    extra = record.dropped_bytes_down + dropped_bytes + others
    return replace(record, clients=parts, dropped_bytes_down=extra)


def fine_tuning(results: Mapping[str, Result]) -> FineTuning:
    """What local fine-tuning came to."""
    return FineTuning(
        before={name: each.evaluation for name, each in results.items() if each.evaluation},
        after={name: each.tuned for name, each in results.items() if each.tuned},
    )
