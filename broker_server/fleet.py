"""A fleet's directory on the workstation: keys, certificate authority, settings, state.

::

    server.toml   settings
    keys/         the Ed25519 key that signs tasks and releases
    pki/          the certificate authority that names the devices
    state/        ledger, weights, updates
    broker/       the supervised broker's files
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from broker_server.broker.base import Broker
from broker_server.broker.external import Credentials
from broker_server.broker.factory import open_broker
from broker_server.config import ServerConfig
from broker_server.settings_text import settings_text
from compression.records import to_plain
from edge_client.config import ConfigError, DataConfig, EdgeConfig
from edge_client.files import write_atomically
from provisioning.pki.authority import FleetCA
from provisioning.pki.signing import create_signing_key

SETTINGS = "server.toml"


def create_fleet(directory: Path, config: ServerConfig) -> Path:
    """Make a fleet's directory; the path of its settings file.

    Raises:
        ConfigError: there is one already; nothing is changed.
    """
    settings = directory / SETTINGS
    if settings.exists():
        raise ConfigError(f"{settings} exists; a fleet is never overwritten: choose another directory")
    FleetCA.create(directory / config.pki, config.fleet)
    create_signing_key(directory / config.keys)
    write_atomically(settings, settings_text(config).encode())
    return settings


def ledger_path(config: ServerConfig) -> Path:
    """The fleet's ledger."""
    return Path(config.state) / "ledger.sqlite"


def write_settings(path: Path, config: ServerConfig | EdgeConfig) -> None:
    """Write settings as TOML."""
    write_atomically(path, tomli_w.dumps(_without_none(to_plain(config))).encode())


def fleet_broker(config: ServerConfig, directory: Path) -> Broker:
    """The broker of a fleet as its settings say, not started yet."""
    return open_broker(
        config.broker.kind,
        directory / "broker",
        fleet=config.fleet,
        port=config.broker.port or None,
        host=config.broker.host,
        names=config.broker.names,
        pki=FleetCA.open(Path(config.pki)),
        credentials=Credentials(
            ca_file=_path(config.broker.ca_file, directory),
            certificate_file=_path(config.broker.certificate_file, directory),
            key_file=_path(config.broker.key_file, directory),
            password_file=_path(config.broker.password_file, directory),
        ),
    )


def device_settings(
    config: ServerConfig, broker: Broker, signing_public_hex: str, name: str, source: str
) -> EdgeConfig:
    """Settings for a device process on this machine; its state lies beside them."""
    return EdgeConfig(
        name=name,
        fleet=config.fleet,
        server_key=signing_public_hex,
        state="state",
        broker=broker.device_address(name),
        data=DataConfig(source=source),
    )


def _path(file: str | None, directory: Path) -> Path | None:
    return None if file is None else directory / file


def _without_none(plain: Any) -> Any:
    """TOML has no null: an absent key is the default."""
    if isinstance(plain, dict):
        return {key: _without_none(item) for key, item in plain.items() if item is not None}
    return plain
