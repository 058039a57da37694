"""The key pair that signs tasks and releases: Ed25519, apart from the authority's key.

Two keys, two duties: whoever holds the authority's key can admit devices, whoever holds this one can
have them run code. The public half, 64 hexadecimal digits as in ``edge.toml``, goes onto every card.
"""

from __future__ import annotations

from pathlib import Path

from edge_client.wire.signer import Signer
from provisioning.pki.errors import PkiError
from provisioning.pki.files import write_file

PRIVATE_FILE, PUBLIC_FILE = "release.key", "release.pub"


def create_signing_key(directory: Path) -> Signer:
    """A new pair: ``release.key`` (0600) and ``release.pub``; an old key is never replaced."""
    path = directory / PRIVATE_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        signer = Signer.create(path)
    except FileExistsError as exc:
        raise PkiError(f"{path} exists; a signing key is never overwritten: move it away first") from exc
    except OSError as exc:
        raise PkiError(f"{path}: {exc.strerror or exc}") from exc
    write_file(directory / PUBLIC_FILE, f"{signer.public_hex}\n".encode())
    return signer


def load_signing_key(directory: Path) -> Signer:
    """The pair that `create_signing_key` made."""
    path = directory / PRIVATE_FILE
    try:
        return Signer.load(path)
    except OSError as exc:
        raise PkiError(f"{path}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise PkiError(str(exc)) from exc
