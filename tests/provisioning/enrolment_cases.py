"""A fleet with a real enrolment service on a free port, and devices that are folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge_client.config import DataConfig, EdgeConfig, EnrolmentConfig
from edge_client.session.address import BrokerAddress
from provisioning.enrolment.desk import EnrolmentDesk
from provisioning.enrolment.service import EnrolmentService
from provisioning.enrolment.tokens import SUFFIX, issue_tokens, save_tokens
from provisioning.pki.authority import FleetCA


@dataclass
class Fleet:
    """An authority, its service while one is up, and a clock that tests turn."""

    folder: Path
    authority: FleetCA
    port: int = 1  # nobody listens there
    ahead: timedelta = field(default_factory=timedelta)

    @classmethod
    def create(cls, folder: Path, now: datetime | None = None) -> Fleet:
        return cls(folder, FleetCA.create(folder / "pki", "ward", now=now))

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def desk(self) -> EnrolmentDesk:
        return EnrolmentDesk(self.authority, clock=self.now)

    @contextmanager
    def service(self, port: int = 0) -> Iterator[EnrolmentService]:
        with EnrolmentService(
            self.authority, self.desk(), host="127.0.0.1", port=port, names=["bramble.test"]
        ) as running:
            self.port = running.port
            yield running

    def token(self, name: str, *, folder: str = "", expires_in: timedelta = timedelta(days=7)) -> str:
        """A new token on the card of `name`; the token's text."""
        card = self.folder / (folder or name)
        (card / f"{name}{SUFFIX}").unlink(missing_ok=True)
        tokens = issue_tokens(self.authority, [name], expires_in=expires_in, now=self.now())
        save_tokens(tokens, card)
        return tokens[0].text

    def device(self, name: str, *, folder: str = "", ca_file: Path | None = None) -> EdgeConfig:
        """The settings of a device whose files lie in a folder of its name, or in another."""
        card = self.folder / (folder or name)
        card.mkdir(exist_ok=True)
        return EdgeConfig(
            name=name,
            fleet="ward",
            server_key="0" * 64,
            state=str(card / "state"),
            broker=BrokerAddress(
                host="127.0.0.1",
                port=1,
                ca_file=str(ca_file or self.authority.certificate_file),
                certificate_file=str(card / "device.crt"),
                key_file=str(card / "device.key"),
            ),
            data=DataConfig(source="npz:/nowhere.npz"),
            enrolment=EnrolmentConfig(
                port=self.port, token_file=str(card / f"{name}{SUFFIX}"), status_file=str(card / "status.log")
            ),
        )


def certificate_of(config: EdgeConfig) -> Path:
    """Where a device keeps its certificate."""
    assert config.broker.certificate_file is not None
    return Path(config.broker.certificate_file)


def without_token(config: EdgeConfig) -> EdgeConfig:
    """A device whose settings name no token."""
    assert config.enrolment is not None
    return replace(config, enrolment=replace(config.enrolment, token_file=None))
