"""How often one address may ask. Tokens cannot be guessed; this bounds the work that a stranger can cause."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

MOST_ADDRESSES = 4096  # beyond it the one that asked longest ago is forgotten


@dataclass(slots=True)
class RateLimit:
    """A bucket of `burst` requests for each address, filled again by `per_s` a second."""

    burst: float
    per_s: float
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)  # left, when

    def wait_s(self, address: str, now: float) -> float:
        """Seconds until the address may ask again; 0 where it may now. `now` is monotonic, in seconds."""
        left = self._left(address, now)
        return 0.0 if left >= 1 else (1 - left) / self.per_s

    def take(self, address: str, now: float) -> None:
        """Count one request of the address."""
        self._buckets[address] = max(0.0, self._left(address, now) - 1), now
        self._buckets.move_to_end(address)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)

    def _left(self, address: str, now: float) -> float:
        left, then = self._buckets.get(address, (self.burst, now))
        return min(self.burst, left + (now - then) * self.per_s)
