"""The device's settings, ``edge.toml``: read once, checked whole, paths relative to the file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

from compression.errors import BrambleError
from compression.records import Between, Length, Matches, Record, RecordError, from_plain
from edge_client.session.address import BrokerAddress
from edge_client.wire.topics import DeviceName, FleetName

R = TypeVar("R", bound=Record)

EXAMPLE = """\
name = "pi-ward-3"          # the device's name; the broker's access list knows it
fleet = "ward"
server_key = "..."          # 64 hexadecimal digits; `bramble-server init` prints them
state = "/var/lib/bramble"  # weights, residual, models: survives reboots

[broker]
host = "workstation.local"
port = 8883
ca_file = "ca.crt"
certificate_file = "device.crt"
key_file = "device.key"

[enrolment]                 # optional: the device gets its certificate by itself, and renews it
port = 8884                 # host = "..." where it is not the broker's
token_file = "token"        # one line; removed once the certificate is stored

[data]
source = "folder:/srv/images"  # or csv:FILE, npz:FILE, table:FILE
validation_fraction = 0.2
"""


class ConfigError(BrambleError, ValueError):
    """The settings file is missing or says something that cannot be."""


@dataclass(frozen=True, slots=True)
class EnrolmentConfig(Record):
    """Where a device gets and renews its certificate; key and certificate are those of `broker`."""

    port: Annotated[int, Between(1, 65535)] = 8884
    host: Annotated[str, Length(1, 253)] | None = None  # None: the broker's
    token_file: Annotated[str, Length(1, 4096)] | None = None  # None: only renewals
    status_file: Annotated[str, Length(1, 4096)] | None = None  # None: on the boot partition, if there is one


@dataclass(frozen=True, slots=True)
class DataConfig(Record):
    """Where the examples are. They never leave the device."""

    source: Annotated[str, Length(3, 4096)]  # kind:path
    validation_fraction: Annotated[float, Between(0.0, 0.9)] = 0.2
    label_column: Annotated[str, Length(1, 128)] | None = None  # where it has none of the usual names
    seed: Annotated[int, Between(0, 1 << 32)] = 0  # of the split into training and validation


@dataclass(frozen=True, slots=True)
class EdgeConfig(Record):
    """Everything a device needs to know before it connects."""

    name: DeviceName
    fleet: FleetName
    server_key: Annotated[str, Matches(r"[0-9a-f]{64}")]
    state: Annotated[str, Length(1, 4096)]
    broker: BrokerAddress
    data: DataConfig
    threads: Annotated[int, Between(1, 64)] = 1
    enrolment: EnrolmentConfig | None = None


def load_config(path: Path) -> EdgeConfig:
    """Read and check a settings file.

    Raises:
        ConfigError: naming the file, the key and the remedy.
    """
    return _anchored(read_toml(path, EdgeConfig), path.resolve().parent)


def read_toml(path: Path, cls: type[R]) -> R:
    """Read a TOML file into a record; raise `ConfigError` naming the file for anything else."""
    try:
        return from_plain(cls, tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not TOML: {exc}") from exc
    except RecordError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def anchored_address(address: BrokerAddress, folder: Path) -> BrokerAddress:
    """The address with its files made absolute."""
    return replace(
        address,
        password_file=_absolute(address.password_file, folder),
        ca_file=_absolute(address.ca_file, folder),
        certificate_file=_absolute(address.certificate_file, folder),
        key_file=_absolute(address.key_file, folder),
    )


def _absolute(path: str | None, folder: Path) -> str | None:
    return None if path is None else str(folder / path)


def _anchored(config: EdgeConfig, folder: Path) -> EdgeConfig:
    kind, _, where = config.data.source.partition(":")
    enrolment = config.enrolment and replace(
        config.enrolment,
        token_file=_absolute(config.enrolment.token_file, folder),
        status_file=_absolute(config.enrolment.status_file, folder),
    )
    return replace(
        config,
        enrolment=enrolment,
        state=str(folder / config.state),
        broker=anchored_address(config.broker, folder),
        data=replace(config.data, source=f"{kind}:{folder / where}"),
    )
