"""A small federation before its first round: data dealt out, the program compiled, the first weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.errors import BenchmarkError
from broker_server.config import ModelConfig
from broker_server.models import ModelError
from broker_server.program import compile_program
from broker_server.simulation import DemoData, prepare_demo_data
from compression.records import RecordError
from compression.spec import ImageInput, Optimizer, SpecError, TableInput, TrainableBundle, Weights
from edge_client.data import DataError, LocalData, column_statistics, load_data, table_input
from edge_client.data.arrays import open_npz

CLIENTS = 3
LARGEST_SIDE = 64  # of pictures, where no size is asked for: what the zoo's small network is made for


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained, and how. `input` is None for the data's own size, at most 64 x 64."""

    dataset: str
    clients: int | None = None  # 3, and as many as there are hospitals
    partition: str | None = None  # iid, and none for hospitals
    rounds: int = 15
    model: str | None = None
    input: tuple[int, ...] | None = None
    batch: int = 16
    epochs: int = 1
    learning_rate: float = 1e-3
    optimizer: Optimizer = "adam"
    validation_fraction: float = 0.0  # that each client keeps to itself


@dataclass(frozen=True, slots=True)
class Federation:
    """One deal of the data and one set of first weights."""

    bundle: TrainableBundle
    digest: str
    weights: Weights
    clients: tuple[LocalData, ...]
    test: LocalData
    seed: int


def found_federation(plan: Plan, seed: int, directory: Path) -> Federation:
    """Deal the data out below `directory`, and compile the model.

    Raises:
        BenchmarkError: data, partition or model that cannot be used.
    """
    try:
        devices = (
            CLIENTS if plan.clients is None and not plan.dataset.startswith("hospitals:") else plan.clients
        )
        dealt = prepare_demo_data(
            plan.dataset, devices=devices, partition=plan.partition, directory=directory, seed=seed
        )
        example = _example(plan, dealt)
        config = ModelConfig(
            name=plan.model or ("small_mlp" if dealt.kind == "table" else "small_cnn"),
            kind=dealt.kind,
            batch_size=plan.batch,
            optimizer=plan.optimizer,
            seed=seed,
        )
        bundle, weights = compile_program(config, example, dealt.classes)
        load = _loader(example, dealt.classes)
        clients = tuple(load(client.source, plan.validation_fraction) for client in dealt.clients)
        return Federation(bundle, bundle.digest, weights, clients, load(dealt.test, 0.0), seed)
    except (DataError, ModelError, RecordError, SpecError) as exc:
        raise BenchmarkError(str(exc)) from exc
    except BenchmarkError:
        raise
    except ImportError as exc:
        raise BenchmarkError(f"compiling needs TensorFlow, pip install 'bramble[server]': {exc}") from exc
    except ValueError as exc:  # the compiler's, or Keras's own for a shape that is too small
        raise BenchmarkError(f"model {plan.model or 'of the zoo'} cannot be compiled: {exc}") from exc


def _loader(example: ImageInput | TableInput, classes: tuple[str, ...]) -> Callable[..., LocalData]:
    return lambda source, kept: load_data(source, example, classes, validation_fraction=kept, seed=0)


def _example(plan: Plan, dealt: DemoData) -> ImageInput | TableInput:
    """How the model takes an example; a table's scaling is the pooled one, as the server would agree on."""
    if dealt.kind == "table":
        statistics = [column_statistics(client.source, dealt.columns) for client in dealt.clients]
        total = statistics[0]
        for more in statistics[1:]:
            total += more
        return table_input(total)
    shape = plan.input or _picture_shape(dealt)
    if len(shape) != 3:
        raise BenchmarkError(f"pictures have HEIGHTxWIDTHxCHANNELS, not {shape[0]} columns")
    channels: Literal[1, 3] = 3 if shape[2] == 3 else 1
    return ImageInput(height=shape[0], width=shape[1], channels=channels)


def _picture_shape(dealt: DemoData) -> tuple[int, ...]:
    if dealt.test.kind != "npz":
        return (LARGEST_SIDE, LARGEST_SIDE, 1)
    height, width, *channels = open_npz(dealt.test.path).entries[0].shape[1:]
    return (min(height, LARGEST_SIDE), min(width, LARGEST_SIDE), 3 if channels == [3] else 1)
