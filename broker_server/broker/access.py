"""Who may say and hear what, once, for every broker we start.

A device writes below ``up/<its name>/`` and reads below ``down/<its name>/`` and ``all/``; the
aggregator reads and writes everything of the fleet. The same rules are a mosquitto ACL file and a
function for the embedded broker; one set of tests runs against both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edge_client.wire.topics import AGGREGATOR, NAME_PATTERN, Topics

DROPPED_TOPIC = "$SYS/broker/publish/messages/dropped"


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The rules of one fleet."""

    topics: Topics

    def may_write(self, user: str, topic: str) -> bool:
        """Whether `user` may publish on `topic`."""
        if user == AGGREGATOR:
            return _below(topic, self.topics.prefix)
        return _is_name(user) and _below(topic, f"{self.topics.prefix}/up/{user}")

    def may_read(self, user: str, topic_or_filter: str) -> bool:
        """Whether `user` may receive a topic or subscribe to a filter that stays within its rights."""
        if user == AGGREGATOR:
            return _below(topic_or_filter, self.topics.prefix)
        roots = (f"{self.topics.prefix}/down/{user}", f"{self.topics.prefix}/all")
        return _is_name(user) and any(_below(topic_or_filter, root) for root in roots)

    def mosquitto_acl(self, denied: Iterable[str] = ()) -> str:
        """The ACL file; `denied` names lose everything, also on connections that are open already."""
        prefix = self.topics.prefix
        blocks = [
            f"user {AGGREGATOR}\ntopic readwrite {prefix}/#\ntopic read {DROPPED_TOPIC}",
            *(f"user {name}\ntopic deny #" for name in sorted(denied)),
            f"pattern write {prefix}/up/%u/#\npattern read {prefix}/down/%u/#\npattern read {prefix}/all/#",
        ]
        return "\n\n".join(blocks) + "\n"


def _below(topic: str, root: str) -> bool:
    """Whether the topic or filter lies under `root`, whose levels a wildcard must not stand for."""
    return topic.startswith(root + "/")


def _is_name(user: str) -> bool:
    return re.fullmatch(NAME_PATTERN, user) is not None
