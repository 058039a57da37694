# mypy: ignore-errors
"""Flower's side: a ServerApp and a ClientApp without training. Runs in Flower's own environment only.

Copied beside a pyproject.toml that `benchmarks.peers.flower` writes; the settings come from there.
"""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


class MarkedFedAvg(FedAvg):
    """Flower's own FedAvg, which writes down when a round's updates are averaged."""

    def __init__(self, marks, **options):
        super().__init__(**options)
        self._marks = Path(marks)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        averaged = super().aggregate_train(server_round, replies)
        mark = {"round": server_round, "at": time.monotonic(), "updates": len(replies)}
        with self._marks.open("a") as file:
            file.write(json.dumps(mark) + "\n")
        return averaged


@server.main()
def lead(grid: Grid, context: Context) -> None:
    settings = context.run_config
    rng = np.random.default_rng(0)
    arrays = [0.05 * rng.standard_normal(shape, np.float32) for shape in json.loads(settings["shapes"])]
    clients = settings["clients"]
    strategy = MarkedFedAvg(
        settings["marks"],
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=clients,
        min_available_nodes=clients,
    )
    strategy.start(grid=grid, initial_arrays=ArrayRecord(arrays), num_rounds=settings["rounds"])


@client.train()
def train(message: Message, context: Context) -> Message:
    rng = np.random.default_rng()
    given = message.content["arrays"].to_numpy_ndarrays()
    moved = [array + 1e-3 * rng.standard_t(3, array.shape).astype(np.float32) for array in given]
    metrics = MetricRecord({"num-examples": context.run_config["examples"]})
    content = RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics})
    return Message(content=content, reply_to=message)
