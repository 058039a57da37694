"""Who counts as a device of the fleet now.

The ledger remembers everyone who was ever here. A device that is revoked, or has not introduced itself for
``absent_days``, is in no total, no share and no threshold: else a fleet that loses devices could never again
reach a share of them. It counts again from its next hello on; one that is here now counts in any case.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from statistics import median

from broker_server import clock
from broker_server.config import ServerConfig
from broker_server.store.ledger import Ledger
from provisioning.pki.ledger import load_ledger

DAY_S = 86_400.0
ISSUED = "ledger.json"  # in the authority's folder


def members(ledger: Ledger, config: ServerConfig, *, present: Collection[str] = ()) -> frozenset[str]:
    """Names of the devices that count; `present` are known to be here."""
    oldest = clock.now() - config.absent_days * DAY_S
    shut_out = frozenset(_revoked(Path(config.pki)))
    seen = ledger.last_seen().items()
    return frozenset(name for name, at in seen if at >= oldest or name in present) - shut_out


def _revoked(pki: Path) -> tuple[str, ...]:
    """Names without a certificate that counts; none where the fleet has no authority of its own."""
    issued = pki / ISSUED
    return load_ledger(issued).revoked_names() if issued.exists() else ()


def example_limit(claims: Iterable[int], config: ServerConfig) -> int:
    """Up to how many a device's claim of examples counts: ``claim_factor`` times the fleet's median claim.

    A claim cannot be checked, and the average follows it. Bounded by the median, one device that claims a
    million weighs as ``claim_factor`` ordinary ones; while fewer than half of them lie, none moves the bound.

    Args:
        claims: of the devices that count, as their first word says; those without examples do not vote.
    """
    counted = [claim for claim in claims if claim > 0]
    usual = config.claim_factor * median(counted) if counted else config.max_examples
    return max(1, min(config.max_examples, math.ceil(usual)))
