"""Child: the real server on the real broker, told where it may listen by nobody: any free port.

``python -m benchmarks.peers.our_server FOLDER HOST CLIENTS ROUNDS CODEC BROKER`` writes ``settings.json``
(where devices connect, whose signatures they trust) and a mark at the end of each round.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.bare import FLEET
from benchmarks.peers.plain_broker import facts, open_plain
from benchmarks.peers.plan import INPUT
from benchmarks.peers.rig import write_mark
from broker_server.config import (
    BrokerConfig,
    CodecConfig,
    ModelConfig,
    ReleaseConfig,
    RoundsConfig,
    ServerConfig,
)
from broker_server.report.observer import NullObserver, RoundFinished
from broker_server.server import Server
from compression.command_line import stop_on_signals
from edge_client.files import write_atomically
from provisioning.pki.signing import create_signing_key

CLASSES = ("a", "b")
SETTINGS = "settings.json"


class Marking(NullObserver):
    """Writes a mark at the end of each round."""

    def __init__(self, marks: Path) -> None:
        self._marks = marks

    def round_finished(self, event: RoundFinished, /) -> None:
        """A round is over and its checkpoint on disk."""
        write_mark(self._marks, event.figures.round, len(event.figures.clients))


def main(arguments: Sequence[str]) -> int:
    """Lead the rounds."""
    folder, host, clients, rounds, codec, kind = Path(arguments[0]), *arguments[1:]
    config = settings(folder, int(clients), int(rounds), codec, kind)
    key = create_signing_key(folder / "keys")
    with open_plain(kind, folder, host) as broker:
        known = facts(broker) | {"server_key": key.public_hex}
        write_atomically(folder / SETTINGS, json.dumps(known).encode())
        Server(config, broker, Marking(folder / "marks")).run(stop_on_signals())
    return 0


def settings(folder: Path, clients: int, rounds: int, codec: str, kind: str) -> ServerConfig:
    """A fleet in which every device takes part in every round, and nothing is released."""
    height, width, _ = INPUT
    return ServerConfig(
        fleet=FLEET,
        state=str(folder / "state"),
        keys=str(folder / "keys"),
        broker=BrokerConfig(kind=kind),
        model=ModelConfig(name="small_cnn", height=height, width=width, channels=1, classes=CLASSES),
        rounds=RoundsConfig(
            rounds=rounds, quorum=clients, wait_for=clients, wait_s=600.0, deadline_s=600.0, grace_s=60.0
        ),
        codec=CodecConfig(up=codec, down=codec),
        release=ReleaseConfig(enabled=False),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
