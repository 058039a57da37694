"""Getting a certificate and keeping it good: what ``bramble-edge enrol`` does, from wherever it stopped.

A certificate that is there and good ends the matter without a network. One that is due is renewed, and
serves on if that cannot be done now. Without one the device makes its key, asks with its token, and stores
the answer whole; the token is removed last. The same question may be asked again after any crash: the
service answers the same key with the same certificate.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Literal

from edge_client import health
from edge_client.config import EdgeConfig
from edge_client.enrolment.client import EnrolmentClient
from edge_client.enrolment.errors import EnrolmentError, TryLaterError
from edge_client.enrolment.identity import DeviceIdentity
from edge_client.enrolment.steps import Steps
from edge_client.wire.enrolment import EnrolRequest, RenewRequest, State, Step

log = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = (
    2.0,
    60.0,
)  # doubles, with full jitter: a rack of Pis gets its power back at once
CLOCK_TOLERANCE_S = 300.0  # between this clock and the server's; more is said in the step `time`
What = Literal["already", "enrolled", "renewed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How `enrol` left the device."""

    name: str
    what: What
    not_after: datetime


def enrol(config: EdgeConfig, *, again: bool = False, now: datetime | None = None) -> Outcome:
    """See to it that this device has a good certificate.

    Args:
        config: with the identity's files in ``[broker]``, and ``[enrolment]`` where there is something to do.
        again: use the token although there is a certificate, as after a revocation that was taken back.
        now: this machine's time, for tests.

    Raises:
        TryLaterError: not now; the same call later goes on.
        EnrolmentError: refused, or the settings cannot work.
    """
    identity = DeviceIdentity.of(config)
    with identity.locked():
        standing = "none" if again else identity.standing(now)
        if standing == "good" or (standing == "due" and config.enrolment is None):
            _forget_token(config)
            return _outcome(identity, "already")
        client = EnrolmentClient(config)
        if standing == "due":
            return _renew_or_go_on(config, identity, client)
        return _enrol_with_token(config, identity, client)


def enrol_within(
    config: EdgeConfig, wait_s: float, *, again: bool = False, rng: Random | None = None
) -> Outcome:
    """As `enrol`, tried again for `wait_s` seconds where it cannot be done at once."""
    rng = rng or Random()  # noqa: S311 - spreads retries, guards nothing
    deadline, delay_s = time.monotonic() + wait_s, FIRST_RETRY_S
    while True:
        try:
            return enrol(config, again=again)
        except TryLaterError as exc:
            pause_s = max(exc.retry_after_s, rng.uniform(0.1, delay_s))
            if time.monotonic() + pause_s > deadline:
                raise
            log.info("%s; trying again in %.0f s", exc, pause_s)
        threading.Event().wait(pause_s)
        delay_s = min(2 * delay_s, LAST_RETRY_S)


def renew(config: EdgeConfig) -> bool:
    """Ask for the newest certificate; whether there was a newer one.

    The service says by its own clock whether one is due, so a device whose clock is wrong is renewed too.
    """
    identity, client = DeviceIdentity.of(config), EnrolmentClient(config)
    with identity.locked():
        return _renew(identity, client)


def report_step(config: EdgeConfig, step: Step, state: State, detail: str = "") -> bool:
    """Tell of a step as far as that can be done; whether the server heard it. No failure stops a device."""
    try:
        client = EnrolmentClient(config)
        enrolled = DeviceIdentity.of(config).certificate() is not None
    except EnrolmentError as exc:
        log.info("the server is not told: %s", exc)
        Steps(config, None).note(step, state, detail)
        return False
    return Steps(config, client).tell(step, state, detail, enrolled=enrolled)


def _renew(identity: DeviceIdentity, client: EnrolmentClient) -> bool:
    before = identity.certificate_file.read_bytes()
    pem = client.renew(RenewRequest(identity.request()))
    if pem.encode("ascii") == before:
        return False
    identity.store(pem)
    return True


def _renew_or_go_on(config: EdgeConfig, identity: DeviceIdentity, client: EnrolmentClient) -> Outcome:
    steps = Steps(config, client)
    try:
        renewed = _renew(identity, client)
    except TryLaterError as exc:
        steps.note("enrol", "waiting", f"not renewed yet: {exc}")
        return _outcome(identity, "already")
    except EnrolmentError as exc:
        steps.note("enrol", "failed", str(exc))
        raise
    if renewed:
        steps.tell("enrol", "ok", "certificate renewed", enrolled=True)
    return _outcome(identity, "renewed" if renewed else "already")


def _enrol_with_token(config: EdgeConfig, identity: DeviceIdentity, client: EnrolmentClient) -> Outcome:
    steps = Steps(config, client)
    blamed: Step = "enrol"
    try:
        client.check_token()
        csr = identity.request()
        blamed = "network"
        request = EnrolRequest(config.name, csr, _label(health.board_serial()), _label(health.board()))
        identity.store(client.enrol(request))
    except EnrolmentError as exc:
        state: State = "waiting" if isinstance(exc, TryLaterError) else "failed"
        steps.note("enrol" if client.reached else blamed, state, str(exc))
        raise
    _forget_token(config)
    steps.tell("network", "ok", f"reached {client}", enrolled=True)
    steps.tell("time", *_clock(client.server_ahead_s), enrolled=True)
    steps.tell("enrol", "ok", "certificate stored", enrolled=True)
    return _outcome(identity, "enrolled")


def _clock(ahead_s: float | None) -> tuple[State, str]:
    """The step `time`: whether this clock agrees with the server's."""
    if ahead_s is None:
        return "waiting", "the server gave no date"
    if abs(ahead_s) < CLOCK_TOLERANCE_S:
        return "ok", ""
    return "waiting", f"this clock is {abs(ahead_s):.0f} s {'behind' if ahead_s > 0 else 'ahead'}"


def _label(text: str) -> str:
    return "".join(character for character in text if " " <= character <= "~")


def _forget_token(config: EdgeConfig) -> None:
    token = config.enrolment.token_file if config.enrolment else None
    if token is not None:
        try:
            Path(token).unlink(missing_ok=True)
        except OSError as exc:  # a read-only boot partition; the token is used up all the same
            log.info("%s: %s; it works no more", token, exc.strerror or exc)


def _outcome(identity: DeviceIdentity, what: What) -> Outcome:
    certificate = identity.certificate()
    if certificate is None:
        raise EnrolmentError(f"{identity.certificate_file} is gone again")
    return Outcome(identity.name, what, certificate.not_valid_after_utc)
