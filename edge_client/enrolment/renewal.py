"""Renewals while the service runs: once a day the device asks whether there is a newer certificate.

The connection to the broker goes on; the next one is made with what the file holds then
(`edge_client.session.tls`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from random import Random

from compression.errors import BrambleError
from edge_client.config import EdgeConfig

log = logging.getLogger(__name__)

FIRST_S = (60.0, 600.0)  # after the start, which is often a whole fleet's
DAILY_S = (18 * 3600.0, 30 * 3600.0)


def keep_renewed(renew: Callable[[], bool], stop: threading.Event, rng: Random) -> None:
    """Call `renew` about once a day until `stop`; what fails is logged and tried again the next day."""
    pause_s = FIRST_S
    while not stop.wait(rng.uniform(*pause_s)):
        try:
            if renew():
                log.info("the certificate was renewed")
        except (BrambleError, OSError) as exc:
            log.warning("the certificate was not renewed: %s", exc)
        pause_s = DAILY_S


def start_renewals(config: EdgeConfig, stop: threading.Event) -> None:
    """`keep_renewed` in a thread that ends with the process."""

    def renew_now() -> bool:
        from edge_client.enrolment.enrol import renew  # noqa: PLC0415 - 2 MB, for later

        return renew(config)

    rng = Random()  # noqa: S311 - spreads requests, guards nothing
    threading.Thread(target=keep_renewed, args=(renew_now, stop, rng), name="renewal", daemon=True).start()
