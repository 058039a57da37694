"""What time it is for the server: a clock that nobody sets while the program runs.

A workstation's clock is set by people and by time servers. What a rollout waits for, what a round took and
how long a run was must not depend on it: from the first look on, only time that really passed is added.
"""

from __future__ import annotations

import time

_PASSING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # counts while the machine sleeps, too
_BEGAN = time.time() - time.clock_gettime(_PASSING)


def now() -> float:
    """Seconds since 1970, never going back in one process; another one may have begun with another clock."""
    return _BEGAN + time.clock_gettime(_PASSING)


def wall() -> float:
    """Seconds since 1970 as other processes and devices count them now; people may set it."""
    return time.time()
