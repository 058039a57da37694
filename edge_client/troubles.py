"""What may go wrong without ending the agent: a bad message, a lost connection, a full disk."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from edge_client.session.blobs import BlobError
from edge_client.session.mqtt import SessionError
from edge_client.wire.errors import WireError

log = logging.getLogger(__name__)

FIRST_REST_S, LAST_REST_S = 1.0, 60.0  # after the disk failed; doubles


class Troubles:
    """One agent's; after the disk failed it rests a while. ``now`` is the monotonic clock, in seconds.

    Attributes:
        rest_until: no work before.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.rest_until, self._rest_s = 0.0, FIRST_REST_S

    @contextlib.contextmanager
    def survived(self, where: str) -> Iterator[None]:
        """Go on after whatever goes wrong inside; ``where`` it was is for the log."""
        try:
            yield
        except WireError as exc:
            log.warning("ignored a message on %s: %s", where[:200], exc)
        except SessionError as exc:
            log.info("%s; will try again", exc)
        except (BlobError, OSError) as exc:
            log.warning("%s: %s; goes on in %g s", where[:200], exc, self._rest_s)
            self.rest_until = self._now() + self._rest_s
            self._rest_s = min(2 * self._rest_s, LAST_REST_S)

    def over(self) -> None:
        """All of a turn went well: the next rest is a short one again."""
        self._rest_s = FIRST_REST_S
