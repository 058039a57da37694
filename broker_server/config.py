"""The server's settings, ``server.toml``: read once, checked whole, paths relative to the file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from broker_server.cohort import AnyCohort
from broker_server.cohort.everyone import Everyone
from broker_server.config_checks import check_settings
from broker_server.models import RANDOM, TRANSFER
from broker_server.strategies import AnyStrategy
from broker_server.strategies.fedavg import FedAvg
from compression.records import Between, Length, Matches, Record, RecordError
from compression.sparsity import Schedule
from compression.spec import Augmentation, Label, Loss, Optimizer
from compression.updates import PROFILES
from edge_client.config import ConfigError, read_toml
from edge_client.wire.ranges import MAX_RANGE_EXAMPLES
from edge_client.wire.rollout import GateRule
from edge_client.wire.topics import FleetName
from provisioning.enrolment.desk import DEVICE_DAYS
from provisioning.pki.authority import MAX_CERTIFICATE_DAYS

FilePath = Annotated[str, Length(1, 4096)]
AUTO = "auto"
Seconds = Annotated[float, Between(0.0, 1e7)]


@dataclass(frozen=True, slots=True)
class BrokerConfig(Record):
    """Which broker, and where it listens. ``port`` 0 takes a free one."""

    kind: Annotated[str, Length(1, 300)] = "auto"  # auto, embedded, mosquitto, mqtt://..., mqtts://...
    port: Annotated[int, Between(0, 65535)] = 0
    host: Annotated[str, Length(1, 253)] = "127.0.0.1"  # 0.0.0.0 to be reached from the network
    names: tuple[Annotated[str, Length(1, 253)], ...] = ()  # under which devices know this machine
    ca_file: FilePath | None = None  # these four for mqtts://... and mqtt://... only
    certificate_file: FilePath | None = None
    key_file: FilePath | None = None
    password_file: FilePath | None = None


@dataclass(frozen=True, slots=True)
class EnrolmentConfig(Record):
    """Where devices get their certificates; on the broker's host, beside a mosquitto of ours only."""

    enabled: bool = True
    port: Annotated[int, Between(0, 65535)] | None = None  # None: one above the broker's; 0: a free one
    days: Annotated[int, Between(1, MAX_CERTIFICATE_DAYS)] = DEVICE_DAYS  # validity of a certificate


@dataclass(frozen=True, slots=True)
class ModelConfig(Record):
    """What is trained. ``name`` is a model of the zoo or ``module:function``.

    A transfer model's is followed by ``@`` and the file of its backbone's weights, or by ``@random``.
    """

    name: Annotated[str, Length(1, 4200)] = "small_cnn"
    kind: Literal["image", "table"] = "image"
    height: Annotated[int, Between(8, 4096)] = 64  # pictures only, as the next two
    width: Annotated[int, Between(8, 4096)] = 64
    channels: Literal[1, 3] = 1
    scaling: Literal["standard", "robust"] = "standard"  # tables only
    classes: tuple[Label, ...] = ()  # empty: those that the devices have
    loss: Loss | None = None  # None: binary for two classes, else categorical cross-entropy
    optimizer: Optimizer = "adam"
    batch_size: Annotated[int, Between(1, 4096)] = 16
    micro_batch: Annotated[int, Between(1, 4096)] | None = None  # a divisor of it: less memory, the same step
    max_extractor_mb: Annotated[float, Between(1, 128)] = 32.0  # frozen part of a transfer model, to fetch
    seed: Annotated[int, Between(0, 1 << 32)] = 0
    sparsity: Annotated[float, Between(0.0, 0.95)] = 0.0  # of the kernels, in the end
    sparsity_schedule: Schedule = "polynomial"
    sparsity_start: Annotated[float, Between(0.0, 0.99)] = 0.3  # share of the rounds before the first zeros
    sparsity_end: Annotated[float, Between(0.01, 1.0)] = 0.8  # and until all of them
    fake_int8: bool = False  # trained as the int8 file will round
    augmentation: Augmentation = Augmentation()


@dataclass(frozen=True, slots=True)
class RoundsConfig(Record):
    """How the rounds go."""

    rounds: Annotated[int, Between(1, 100_000)] = 15
    epochs: Annotated[int, Between(1, 1000)] = 1
    learning_rate: Annotated[float, Between(1e-9, 100.0)] = 1e-3
    balance: bool = False  # weigh examples so that on each device its classes count the same
    quorum: Annotated[int, Between(1, 4096)] = 2
    wait_for: Annotated[int, Between(1, 4096)] = 2
    wait_s: Seconds = 300.0
    deadline_s: Seconds = 3600.0
    grace_s: Seconds = 60.0
    late: Literal["drop", "weigh"] = "drop"  # results of an earlier round: thrown away, or count for less
    max_staleness: Annotated[int, Between(1, 1000)] = 3  # of a late result, in rounds
    fine_tune_epochs: Annotated[int, Between(0, 1000)] = 0  # after the last round, each device for itself


@dataclass(frozen=True, slots=True)
class CodecConfig(Record):
    """How the weights' changes are coded in each direction; docs/update-codec.md lists the profiles.

    ``auto`` chooses a profile for each round (`broker_server.codec_control`).
    """

    up: Annotated[str, Matches(r"[a-z0-9_-]{1,32}")] = "safe"
    down: Annotated[str, Matches(r"[a-z0-9_-]{1,32}")] = "safe"

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        for name in (self.up, self.down):
            if name not in PROFILES and name != AUTO:
                known = ", ".join([*PROFILES, AUTO])
                raise RecordError(f"CodecConfig: unknown profile {name!r}; known are {known}")


@dataclass(frozen=True, slots=True)
class DataConfig(Record):
    """Examples that the server itself may see; all optional. ``kind:path`` as on the devices."""

    evaluation: FilePath | None = None  # held-out examples for accuracy after each round
    calibration: FilePath | None = None  # of int8 releases: instead of the devices' ranges


@dataclass(frozen=True, slots=True)
class RangesConfig(Record):
    """What devices tell of their activations for federated calibration; docs/model-compression.md."""

    examples: Annotated[int, Between(1, MAX_RANGE_EXAMPLES)] = 200  # of each device, at most
    clip_percent: Annotated[float, Between(0.0, 25.0)] = 0.0  # of each example's extremes that do not count
    noise: Annotated[float, Between(0.0, 1.0)] = 0.0  # added to each bound, share of the range
    max_program_mb: Annotated[float, Between(0.001, 128)] = 32.0  # to fetch: the whole network in float32


@dataclass(frozen=True, slots=True)
class ReleaseConfig(Record):
    """The int8 model that is pushed when the rounds are done."""

    enabled: bool = True
    recipe: Literal["int8", "dynamic", "float32"] = "int8"
    calibration: Literal["auto", "federated", "server", "none"] = "auto"  # of int8: where ranges come from
    ranges: RangesConfig = RangesConfig()
    wait_s: Seconds = 600.0  # for the devices' reports
    gate: GateRule = GateRule()


@dataclass(frozen=True, slots=True)
class RolloutConfig(Record):
    """How a model reaches the fleet: canaries, growing shares, everyone; docs/rollout.md."""

    canary: Annotated[str, Length(1, 4096)] = "5%"  # of the devices; or a number of them; or their names
    stages: tuple[Annotated[float, Between(0, 100)], ...] = (
        25.0,
    )  # percent that have it after each next wave
    observe_s: Seconds = 60.0  # after a wave has decided, before the next one
    min_success: Annotated[float, Between(0, 1)] = 0.8  # share of the offered that must take it to go on
    max_failed: Annotated[float, Between(0, 1)] = 0.1  # share of the offered above which it is taken back
    max_errors: Annotated[float, Between(0, 1)] = 0.05  # share of failed answers on a device in use
    automatic: bool = True  # false: after the canaries it waits for `bramble-server models promote`
    afterwards: Literal["warn", "rollback"] = "warn"  # once it is over, where more than max_failed do badly


@dataclass(frozen=True, slots=True)
class TrackingConfig(Record):
    """Where the run's figures are written besides its own report; docs/tracking.md."""

    tensorboard: FilePath | None = None  # a folder of event files
    mlflow: FilePath | None = None  # a tracking server's or a database's address


AT_ONCE = RolloutConfig(canary="100%", stages=(), observe_s=0.0, max_failed=1.0)  # each device's gate alone


@dataclass(frozen=True, slots=True)
class ServerConfig(Record):
    """Everything the server needs to know."""

    fleet: FleetName
    state: FilePath = "state"
    keys: FilePath = "keys"  # of the signing key
    pki: FilePath = "pki"
    max_examples: Annotated[int, Between(1, 1 << 40)] = 1_000_000  # a device's claim counts up to this
    claim_factor: Annotated[float, Between(1.0, 1e12)] = 10.0  # ... and to this times the median claim
    absent_days: Annotated[float, Between(0.01, 36_500.0)] = 30.0  # not seen for so long: counts no more
    broker: BrokerConfig = BrokerConfig()
    enrolment: EnrolmentConfig = EnrolmentConfig()
    model: ModelConfig = ModelConfig()
    rounds: RoundsConfig = RoundsConfig()
    strategy: AnyStrategy = FedAvg()
    cohort: AnyCohort = Everyone()
    codec: CodecConfig = CodecConfig()
    data: DataConfig = DataConfig()
    release: ReleaseConfig = ReleaseConfig()
    rollout: RolloutConfig = RolloutConfig()
    tracking: TrackingConfig = TrackingConfig()

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        check_settings(self, transfer=is_transfer_name(self.model.name))


def chosen_calibration(config: ServerConfig) -> Literal["federated", "server", "none"]:
    """Where an int8 release's activation ranges come from; ``auto``: the server's examples or the devices.

    Of a transfer model ``auto`` never asks the devices: each would fetch its backbone once more, in float32.
    """
    if config.release.calibration != "auto":
        return config.release.calibration
    if config.data.calibration:
        return "server"
    return "none" if is_transfer_name(config.model.name) else "federated"


def calibrates_on_devices(config: ServerConfig) -> bool:
    """Whether the run has a stage in which devices measure ranges."""
    release = config.release
    return release.enabled and release.recipe == "int8" and chosen_calibration(config) == "federated"


def is_transfer_name(name: str) -> bool:
    """Whether a model of this name has a frozen part that runs once a picture."""
    return name.partition("@")[0] in TRANSFER


def load_config(path: Path) -> ServerConfig:
    """Read and check a settings file.

    Raises:
        ConfigError: naming the file, the key and the remedy.
    """
    config = read_toml(path, ServerConfig)
    folder = path.resolve().parent
    data = replace(
        config.data,
        evaluation=_anchored(config.data.evaluation, folder),
        calibration=_anchored(config.data.calibration, folder),
    )
    board = config.tracking.tensorboard
    tracking = replace(config.tracking, tensorboard=None if board is None else str(folder / board))
    return replace(
        config,
        data=data,
        model=replace(config.model, name=_anchored_model(config.model.name, folder)),
        tracking=tracking,
        state=str(folder / config.state),
        keys=str(folder / config.keys),
        pki=str(folder / config.pki),
    )


def shown_name(name: str) -> str:
    """A model's name for people: of its weights' file the name alone, whose folder may be moved."""
    backbone, at, weights = name.partition("@")
    if weights == RANDOM:
        return f"{backbone} (random weights, dry run)"
    return backbone + at + Path(weights).name


def _anchored_model(name: str, folder: Path) -> str:
    backbone, at, weights = name.partition("@")
    if not at or not is_transfer_name(name) or weights in ("", RANDOM):
        return name
    return f"{backbone}@{folder / weights}"


def _anchored(source: str | None, folder: Path) -> str | None:
    if source is None:
        return None
    kind, colon, where = source.partition(":")
    if not colon:
        raise ConfigError(f"data source {source!r}: expected kind:path, for example folder:images")
    return f"{kind}:{folder / where}"
