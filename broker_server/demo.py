"""The whole of Bramble on one machine: real clients as processes, a real broker, real data.

What is simulated is the hardware: the devices are processes on this host, and the report says so.
"""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from broker_server import clock
from broker_server.baselines import BaselineJob, run_baselines
from broker_server.clients import ClientProcesses
from broker_server.config import (
    AT_ONCE,
    BrokerConfig,
    CodecConfig,
    DataConfig,
    ModelConfig,
    ReleaseConfig,
    RoundsConfig,
    ServerConfig,
    is_transfer_name,
    load_config,
)
from broker_server.fleet import SETTINGS, create_fleet, device_settings, fleet_broker, write_settings
from broker_server.frozen import CACHE
from broker_server.report.observer import Note, RunObserver
from broker_server.report.schema import RunReport
from broker_server.results import CENTRALISED, Comparison, RunFacts, build_report
from broker_server.server import Server
from broker_server.simulation.demo_data import prepare_demo_data
from broker_server.simulation.values import DemoData
from broker_server.strategies import AnyStrategy, find_strategy
from broker_server.strategies.fedbuff import FedBuff
from broker_server.strategies.fedper import FedPer
from compression.errors import BrambleError
from edge_client.config import DataConfig as EdgeDataConfig
from edge_client.config import EdgeConfig
from edge_client.data import DataSource
from edge_client.data.arrays import open_npz
from edge_client.health import cores
from provisioning.pki.signing import load_signing_key

MARKER = ".bramble-demo"  # a folder is only ever cleared if a demo made it
FLEET = "demo"
SEED = 7
START_TIMEOUT_S = 60.0
EDGE_DATA = EdgeDataConfig(source="folder:.")  # the defaults: alone as in the fleet a client trains on these


class DemoError(BrambleError, RuntimeError):
    """The demonstration cannot be run as asked."""


class ClientsFailedError(DemoError):
    """No client could start; the logs are kept."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line chose; None takes what suits the data set."""

    dataset: str = "wisconsin"
    devices: int | None = None
    rounds: int | None = None
    partition: str | None = None
    label_column: str | None = None
    model: str | None = None
    broker: str = "auto"
    out: Path = Path("bramble-demo")
    epochs: int | None = None
    learning_rate: float | None = None
    codec: str | None = None
    seed: int = SEED
    baselines: bool = True
    strategy: str = "fedavg"
    fine_tune: int = 0  # epochs
    sparsity: float = 0.0
    fake_int8: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings that suit a kind of data, measured on the examples (docs/demo.md)."""

    model: str
    rounds: int
    epochs: int
    learning_rate: float
    batch_size: int
    micro_batch: int | None
    partition: str | None


TABLE = Recipe("small_mlp", 15, 2, 3e-3, 16, None, "sizes:35,25,22,18")
IMAGES = Recipe("small_cnn", 15, 1, 1e-3, 16, 2, None)  # micro-batches: 17 MB less on each device
SGD_RATE = 0.05  # for strategies that need plain SGD on the devices, unless another one is asked for
LEAST_SIDE = 32  # of a picture, that Keras' backbones take
SMALL_SET = 2000  # pictures: below this an epoch is a few steps only, and the demo takes several a round
SMALL_SET_EPOCHS = 3


def run_demo(options: DemoOptions, observer: RunObserver, stop: threading.Event) -> RunReport:
    """Run a fleet from nothing to the closing report.

    Raises:
        DemoError, DataError, ConfigError, BrokerError, RunError: one line that says why.
    """
    folder = _fresh_folder(options.out)
    try:
        return _run_in(folder, options, observer, stop)
    except ClientsFailedError:
        raise  # their logs say why
    except Exception:
        shutil.rmtree(folder)  # nothing half-made that looks like a run
        raise


def _run_in(folder: Path, options: DemoOptions, observer: RunObserver, stop: threading.Event) -> RunReport:
    started = clock.now()
    observer.note(Note(f"dealing out {options.dataset}"))
    data = prepare_demo_data(
        options.dataset,
        devices=options.devices,
        partition=options.partition or _default_partition(options),
        directory=folder,
        seed=options.seed,
        label_column=options.label_column,
    )
    create_fleet(folder, demo_config(options, data))
    settings = folder / SETTINGS
    config = load_config(settings)
    with fleet_broker(config, folder) as broker:
        config = replace(config, broker=replace(config.broker, port=broker.server_address().port))
        write_settings(settings, config)
        observer.note(Note(broker.describe()))
        server = Server(config, broker, observer)
        key = load_signing_key(Path(config.keys)).public_hex
        clients = [
            _write_client(folder, device_settings(config, broker, key, client.name, _resolved(client.source)))
            for client in data.clients
        ]
        with ClientProcesses(clients) as processes:
            _run_server(server, processes, stop)
    comparison = _compare(server, data, config, observer) if options.baselines else Comparison()
    facts = RunFacts(
        dataset=options.dataset,
        partition=_partition_in_words(options),
        description=data.description,
        broker=broker.describe(),
        started=started,
        simulated=True,
    )
    return build_report(server.stages, config, facts, comparison)


def demo_config(options: DemoOptions, data: DemoData) -> ServerConfig:
    """The settings of the demonstration's fleet."""
    recipe = TABLE if data.kind == "table" else IMAGES
    devices = len(data.clients)
    height, width, channels = _picture_shape(data, options) if data.kind == "image" else (64, 64, 1)
    examples = sum(sum(client.counts.values()) for client in data.clients)
    epochs = SMALL_SET_EPOCHS if data.kind == "image" and examples < SMALL_SET else recipe.epochs
    codec = options.codec or "safe"
    quorum = max(1, devices // 2)
    strategy = _strategy(options.strategy, buffer=quorum)
    plain = strategy.problem("adam") is not None
    rounds, model = options.rounds or recipe.rounds, options.model or recipe.model
    return ServerConfig(
        fleet=FLEET,
        broker=BrokerConfig(kind=options.broker),
        model=ModelConfig(
            name=model,
            kind=data.kind,
            height=height,
            width=width,
            channels=channels,
            classes=data.classes,
            batch_size=recipe.batch_size,
            micro_batch=recipe.micro_batch if options.model is None else None,
            optimizer="sgd" if plain else "adam",
            seed=options.seed,
            sparsity=options.sparsity,
            fake_int8=options.fake_int8,
        ),
        rounds=RoundsConfig(
            rounds=rounds * devices // quorum if strategy.BUFFERED else rounds,  # the same number of updates
            epochs=options.epochs or epochs,
            learning_rate=options.learning_rate or (SGD_RATE if plain else recipe.learning_rate),
            fine_tune_epochs=options.fine_tune,
            quorum=quorum,
            wait_for=devices,
            wait_s=START_TIMEOUT_S,
            deadline_s=600.0,
            grace_s=10.0,
        ),
        strategy=strategy,
        codec=CodecConfig(up=codec, down=codec),
        data=DataConfig(
            evaluation=_resolved(data.test),
            calibration=_resolved(data.calibration) if data.calibration else None,
        ),
        release=ReleaseConfig(
            wait_s=60.0,
            enabled=not isinstance(strategy, FedPer),
            calibration="auto" if is_transfer_name(model) else "federated",
        ),
        rollout=AT_ONCE,
    )


def _strategy(name: str, buffer: int) -> AnyStrategy:
    strategy = find_strategy(name)
    return replace(strategy, buffer=buffer) if isinstance(strategy, FedBuff) else strategy


def _picture_shape(data: DemoData, options: DemoOptions) -> tuple[int, int, Literal[1, 3]]:
    """Arrays keep their own size up to 64x64, backbones take 32x32 at least; files become 64x64 grey."""
    source = data.clients[0].source
    if source.kind != "npz":
        return 64, 64, 1
    _, height, width, *channels = open_npz(source.path).entries[0].shape
    least = LEAST_SIDE if is_transfer_name(options.model or "") else 1
    height, width = (max(min(side, 64), least) for side in (height, width))
    return height, width, 3 if channels == [3] else 1


def _default_partition(options: DemoOptions) -> str | None:
    """Unequal hospitals for the table, equal ones otherwise."""
    if options.dataset == "wisconsin" and options.devices in (None, 4):
        return TABLE.partition
    return None


def _partition_in_words(options: DemoOptions) -> str:
    if options.dataset.startswith("hospitals:"):
        return "by hospital"
    return options.partition or _default_partition(options) or "iid"


def _fresh_folder(folder: Path) -> Path:
    """An empty folder; an earlier demonstration there is replaced, anything else is left alone."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise DemoError(f"{folder} is not empty and no demonstration made it: choose another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    return folder.resolve()


def _resolved(source: DataSource) -> str:
    return f"{source.kind}:{source.path.resolve()}"


def _write_client(folder: Path, config: EdgeConfig) -> Path:
    path = folder / config.name / "edge.toml"
    write_settings(path, config)
    return path


def _run_server(server: Server, clients: ClientProcesses, stop: threading.Event) -> None:
    """Run the server; give up when fewer clients than the quorum are left."""
    done, given_up = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            if clients.count - len(clients.failed()) < server.config.rounds.quorum:
                given_up.set()
                stop.set()
                return

    watcher = threading.Thread(target=watch, name="clients", daemon=True)
    watcher.start()
    try:
        server.run(stop)
    finally:
        done.set()
    if given_up.is_set():
        log_file = next(iter(clients.failed())).parent / "log.txt"
        last = log_file.read_text(errors="replace").strip().splitlines()[-1:] or ["no log"]
        raise ClientsFailedError(f"too few clients are left: {last[0]} ({log_file})")
    if not server.finished:
        raise KeyboardInterrupt


def _compare(server: Server, data: DemoData, config: ServerConfig, observer: RunObserver) -> Comparison:
    """Train the same program on everything at once, and by each client alone."""
    observer.note(Note("training the baselines: all data in one place, and each client alone"))
    stages = server.stages
    frozen = stages.frozen.blobs()  # the manifest, and the file
    epochs = config.rounds.rounds * config.rounds.epochs
    everything = BaselineJob(
        name=CENTRALISED,
        bundle=str(stages.artefacts.path(stages.bundle_ref.digest)),
        weights=str(stages.artefacts.path(stages.versions.first.full.digest)),
        train=_resolved(data.train),
        test=_resolved(data.test),
        epochs=epochs,
        learning_rate=config.rounds.learning_rate,
        seed=config.model.seed,
        extractor=str(stages.artefacts.path(frozen[-1].digest)) if frozen else None,
        cache=str(Path(config.state) / CACHE) if frozen else None,
    )
    alone = [
        replace(
            everything,
            name=client.name,
            train=_resolved(client.source),
            validation_fraction=EDGE_DATA.validation_fraction,
            split_seed=EDGE_DATA.seed,
        )
        for client in data.clients
    ]
    jobs = [everything, *alone]
    results = run_baselines(jobs, workers=max(1, cores()))
    return Comparison(centralised=results.pop(CENTRALISED), local=results, epochs=epochs)
