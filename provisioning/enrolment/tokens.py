"""One-time tokens: made for a name, written to a private file, known to the fleet by their hash only."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge_client.wire.enrolment import TOKEN_PATTERN
from provisioning.enrolment.errors import EnrolmentServiceError
from provisioning.enrolment.store import EnrolmentStore, TokenRow, Transaction
from provisioning.pki.authority import RESERVED_NAMES, FleetCA
from provisioning.pki.files import PRIVATE, write_new_file
from provisioning.pki.keys import check_name
from provisioning.pki.ledger import Ledger

TOKEN_BYTES = 32
DEFAULT_EXPIRES = timedelta(days=7)
LONGEST = timedelta(days=90)
UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}
SUFFIX = ".token"


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made; `text` is the secret, and nothing prints it."""

    name: str
    text: str
    expires: datetime

    def __repr__(self) -> str:
        return f"NewToken({self.name!r}, ***)"


def issue_tokens(
    authority: FleetCA,
    names: Sequence[str],
    *,
    expires_in: timedelta = DEFAULT_EXPIRES,
    now: datetime | None = None,
) -> tuple[NewToken, ...]:
    """A token for each name; tokens that a name had and did not use work no more.

    Raises:
        PkiError: what is no name.
        EnrolmentServiceError: a name of the server's own, or a time out of bounds.
    """
    if not timedelta(minutes=1) <= expires_in <= LONGEST:
        raise EnrolmentServiceError(f"a token is good for a minute to {LONGEST.days} days, not {expires_in}")
    for name in names:
        if check_name(name) in RESERVED_NAMES:
            raise EnrolmentServiceError(f"the names {', '.join(RESERVED_NAMES)} are for the server's side")
    now = now or datetime.now(UTC)
    ledger = authority.ledger()
    with EnrolmentStore(authority.directory).transaction() as t:
        return tuple(_issue(t, ledger, name, now, now + expires_in) for name in dict.fromkeys(names))


def _issue(t: Transaction, ledger: Ledger, name: str, now: datetime, expires: datetime) -> NewToken:
    text = "brt_" + secrets.token_urlsafe(TOKEN_BYTES)
    t.withdraw(name, "a newer token took its place")
    t.add_token(
        name,
        token_hash(text),
        issued=now.timestamp(),
        expires=expires.timestamp(),
        revocations=revocations(ledger, name),
    )
    return NewToken(name, text, expires)


def withdraw_tokens(authority: FleetCA, name: str) -> int:
    """Let no unused token of `name` work any more; how many did until now."""
    with EnrolmentStore(authority.directory).transaction() as t:
        return t.withdraw(check_name(name), "it was revoked")


def save_tokens(tokens: Iterable[NewToken], directory: Path) -> tuple[Path, ...]:
    """Each in a new file ``NAME.token`` of mode 0600."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for token in tokens:
        paths.append(directory / f"{token.name}{SUFFIX}")
        write_new_file(paths[-1], f"{token.text}\n".encode(), mode=PRIVATE)
    return tuple(paths)


def token_hash(text: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(text.encode("ascii")).digest()


def find_token(rows: Iterable[TokenRow], text: str) -> TokenRow | None:
    """The row of a token among those of a name; every comparison takes the same time."""
    if not re.fullmatch(TOKEN_PATTERN, text):
        return None
    digest, found = token_hash(text), None
    for row in rows:
        if hmac.compare_digest(row.hash, digest):
            found = row
    return found


def revocations(ledger: Ledger, name: str) -> int:
    """How many certificates of a name were revoked; it only grows, so it dates a token without a clock."""
    return sum(entry.revoked_at is not None for entry in ledger.of(name))


def parse_lifetime(text: str) -> timedelta:
    """``7d`` or ``12h``."""
    match = re.fullmatch(r"([0-9]{1,4})([hd])", text)
    if match is None:
        raise ValueError(f"{text!r} is not a number of days or hours such as 7d or 12h")
    return int(match[1]) * UNITS[match[2]]
