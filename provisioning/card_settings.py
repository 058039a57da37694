"""What people write about cards: the keys of ``cards.toml``, one record a table, secrets by path.

::

    [defaults]                       # every card has these ...
    target = "trixie-arm64"
    [defaults.fleet]
    name = "ward"
    [cards.pi-1]                     # ... and its own
    token_file = "tokens/pi-1"
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from compression.records import Record, RecordError, from_plain
from edge_client.config import DataConfig
from provisioning.card import (
    HOST_LABEL,
    Card,
    CardError,
    Endpoint,
    EnrolmentToken,
    FleetAccess,
    IssuedCertificate,
    Secret,
    Wifi,
)
from provisioning.card_secrets import PASSPHRASE, TOKEN, Secrets, read_text


@dataclass(frozen=True, slots=True)
class WifiSettings(Record):
    """``[defaults.wifi]``. Without `passphrase_file` the environment or the terminal is asked."""

    ssid: str
    country: str
    passphrase_file: str | None = None
    hidden: bool = False
    open_network: bool = False


@dataclass(frozen=True, slots=True)
class FleetSettings(Record):
    """``[defaults.fleet]``. Addresses as HOST:PORT."""

    name: str
    server_key: str
    ca_file: str
    broker: str
    enrolment: str | None = None


@dataclass(frozen=True, slots=True)
class CardSettings(Record):
    """One card, defaults and own settings merged. ``{name}`` in a file's name is the card's name."""

    target: str
    fleet: FleetSettings
    data: DataConfig
    mode: str = "prebaked"
    user: str = "pi"
    ssh_keys: tuple[str, ...] = ()
    ssh_key_files: tuple[str, ...] = ()
    password_hash_file: str | None = None
    wifi: WifiSettings | None = None
    locale: str | None = None
    keymap: str | None = None
    timezone: str = "Etc/UTC"
    watchdog: bool = True
    card_sparing: bool = True
    token_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    # What goes with a card and is not on it, for `provisioning.card_jobs`:
    wheelhouse: str | None = None  # the client's folder; {target} stands for the card's system
    device: str | None = None  # where `flash` writes this card


def check_keys(table: Mapping[str, Any], where: str, cls: type[Record] = CardSettings) -> None:
    """Refuse a key that is not one of `cls`, with the nearest that is; tables inside are checked alike."""
    hints = get_type_hints(cls)
    for key, value in table.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(hints)}"
            raise CardError(f"{where}: unknown key {key!r}; {hint}")
        inner = record_in(hints[key])
        if inner is not None and isinstance(value, Mapping):
            check_keys(value, f"{where}.{key}", inner)


def record_in(kind: Any) -> type[Record] | None:
    """The record that a field holds, if it holds one."""
    options = get_args(kind) or (kind,)
    return next((each for each in options if isinstance(each, type) and issubclass(each, Record)), None)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables laid over each other; whatever is not a table is replaced."""
    result = dict(under)
    for key, value in over.items():
        inner = result.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result


def build_card(name: str, plain: Mapping[str, Any], secrets: Secrets) -> Card:
    """The card that merged settings describe, its files read.

    Raises:
        CardError: naming the card, the key and the remedy.
    """
    if not re.fullmatch(HOST_LABEL, name):  # it becomes part of the names of files
        raise CardError(f"card {name[:80]!r}: a name is 1 to 63 of a-z 0-9 and -, as a host name is")
    try:
        settings = from_plain(CardSettings, dict(plain), f"cards.{name}")
        access = _access(settings.fleet)
        return Card(
            name=name,
            target=settings.target,  # type: ignore[arg-type]  # the record checks it
            access=access,
            identity=_identity(name, settings, secrets),
            data=settings.data,
            mode=settings.mode,  # type: ignore[arg-type]
            user=settings.user,
            ssh_keys=tuple(_ssh_keys(settings)),
            password_hash=_file_secret(settings.password_hash_file),
            wifi=_wifi(settings.wifi, secrets) if settings.wifi else None,
            locale=settings.locale,
            keymap=settings.keymap,
            timezone=settings.timezone,
            watchdog=settings.watchdog,
            card_sparing=settings.card_sparing,
        )
    except RecordError as exc:
        raise CardError(f"card {name}: {exc}") from exc


def endpoint(text: str) -> Endpoint:
    """HOST:PORT, an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal():
        raise CardError(f"{text!r} is not HOST:PORT")
    return Endpoint(host.removeprefix("[").removesuffix("]"), int(port))


def _access(fleet: FleetSettings) -> FleetAccess:
    return FleetAccess(
        fleet=fleet.name,
        server_key=fleet.server_key,
        broker=endpoint(fleet.broker),
        ca=read_text(Path(fleet.ca_file)),
        enrolment=endpoint(fleet.enrolment) if fleet.enrolment else None,
    )


def _identity(name: str, settings: CardSettings, secrets: Secrets) -> EnrolmentToken | IssuedCertificate:
    certificate, key = _of(name, settings.certificate_file), _of(name, settings.key_file)
    if (certificate is None) != (key is None):
        raise CardError(f"card {name}: certificate_file and key_file go together")
    if certificate is not None and key is not None:
        if settings.token_file is not None:
            raise CardError(f"card {name}: give token_file, or certificate_file and key_file; not both")
        return IssuedCertificate(read_text(Path(certificate)), Secret(read_text(Path(key))))
    if settings.token_file is None and secrets.issue is not None:
        return EnrolmentToken(Secret(secrets.issue(name)))
    token = secrets.get(_of(name, settings.token_file), TOKEN, f"Enrolment token of {name}")
    if token is None:
        raise CardError(
            f"card {name} has no identity: give token_file (made with `bramble-provision token issue`), --ca "
            "to flash and image where the authority is at hand, or certificate_file and key_file where no "
            "enrolment is possible"
        )
    return EnrolmentToken(token)


def _wifi(wifi: WifiSettings, secrets: Secrets) -> Wifi:
    passphrase = None
    if not wifi.open_network or wifi.passphrase_file is not None:
        passphrase = secrets.get(wifi.passphrase_file, PASSPHRASE, f"Passphrase of {wifi.ssid}")
    return Wifi(wifi.ssid, wifi.country, passphrase, wifi.hidden, wifi.open_network)


def _ssh_keys(settings: CardSettings) -> Iterator[str]:
    yield from settings.ssh_keys
    for path in settings.ssh_key_files:
        lines = (line.strip() for line in read_text(Path(path)).splitlines())
        yield from (line for line in lines if line and not line.startswith("#"))


def _file_secret(path: str | None) -> Secret | None:
    return Secret(read_text(Path(path)).strip()) if path is not None else None


def _of(name: str, path: str | None) -> str | None:
    return path.replace("{name}", name) if path is not None else None


def anchored(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The table with the files it names made absolute: they are relative to the file that names them."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            result[key] = anchored(value, folder)
        elif (key.endswith("_file") or key == "wheelhouse") and isinstance(value, str):
            result[key] = os.path.join(folder, Path(value).expanduser())  # noqa: PTH118 - keeps {name}
        elif key.endswith("_files") and isinstance(value, list):
            result[key] = [str(folder / Path(str(each)).expanduser()) for each in value]
        else:
            result[key] = value
    return result
