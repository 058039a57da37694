"""Keys and signing requests as files. A key is born where its owner lives and never travels."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_client.enrolment.keys import new_key, private_pem, signing_request
from edge_client.wire.topics import NAME_PATTERN
from provisioning.pki.errors import PkiError
from provisioning.pki.files import PRIVATE, PUBLIC, write_file, write_new_file

MAX_PEM_BYTES = 64 * 1024
KEY_FILE, REQUEST_FILE, CERTIFICATE_FILE, CA_FILE = "device.key", "device.csr", "device.crt", "ca.crt"


def check_name(name: str) -> str:
    """The name, which is also a topic level and a file name; `PkiError` otherwise."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise PkiError(f"name {name[:80]!r} must be 1 to 64 of A-Z a-z 0-9 _ -")
    return name


def new_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new key in a new file of mode 0600; a key that is there already is never replaced."""
    key = new_key()
    save_new_key(path, key)
    return key


def save_new_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a key to a new file of mode 0600."""
    try:
        write_new_file(path, private_pem(key), mode=PRIVATE)
    except FileExistsError as exc:
        raise PkiError(f"{path} exists; a key is never overwritten: move it away first") from exc
    except OSError as exc:
        raise PkiError(f"{path}: {exc.strerror or exc}") from exc


def load_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """An elliptic-curve key from its file."""
    try:
        key = serialization.load_pem_private_key(read_pem(path), password=None)
    except (ValueError, TypeError) as exc:
        raise PkiError(f"{path}: not an unencrypted PEM private key") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"{path}: not an elliptic-curve key")
    return key


def make_device_key_and_csr(directory: Path, name: str) -> bytes:
    """Make the device's key, and return the request for its certificate (PEM).

    Runs on the device. The key is ``device.key`` (0600) in `directory`; the request is ``device.csr``
    beside it. A key that is there is kept and used, so an interrupted enrolment can go on.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / KEY_FILE
    key = load_private_key(path) if path.exists() else new_private_key(path)
    request = make_request(key, name)
    write_file(directory / REQUEST_FILE, request, mode=PUBLIC)
    return request


def make_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A signing request for `name`, PEM."""
    return signing_request(key, check_name(name))


def read_pem(path: Path) -> bytes:
    """The bytes of a small file; `PkiError` where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise PkiError(f"{path}: {exc.strerror or exc}") from exc
    if len(data) > MAX_PEM_BYTES:
        raise PkiError(f"{path}: {len(data)} bytes are too many for a PEM file")
    return data
