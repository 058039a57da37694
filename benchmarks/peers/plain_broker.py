"""Child: a broker without certificates in a process of its own, which may be another network's.

``python -m benchmarks.peers.plain_broker FOLDER KIND HOST`` writes ``broker.json`` once it listens, and runs
until it is stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.bare import FLEET
from broker_server.broker.base import Broker
from broker_server.broker.factory import open_broker
from compression.command_line import stop_on_signals
from edge_client.files import write_atomically

FACTS = "broker.json"


def open_plain(kind: str, folder: Path, host: str) -> Broker:
    """The fleet's broker; only the benchmark's processes reach `host`."""
    return open_broker(kind, folder / "broker", fleet=FLEET, host=host, plain=True, closed=True)


def facts(broker: Broker) -> dict[str, Any]:
    """What the rig has to know of one that runs; an external one has no process id that we know."""
    return {
        "port": broker.server_address().port,
        "broker": broker.describe(),
        "broker_pid": getattr(broker, "pid", None),
    }


def main(arguments: Sequence[str]) -> int:
    """Run one until stopped."""
    folder, kind, host = Path(arguments[0]), arguments[1], arguments[2]
    stop = stop_on_signals()
    with open_plain(kind, folder, host) as broker:
        write_atomically(folder / FACTS, json.dumps(facts(broker)).encode())
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
