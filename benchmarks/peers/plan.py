"""What is asked of each system, and what each answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Report = Callable[[str, float], None]

# The zoo's small_cnn for 64x64 grey pictures and two classes: 71,489 parameters.
INPUT = (64, 64, 1)
SHAPES: tuple[tuple[int, ...], ...] = (
    (3, 3, 1, 8),
    (8,),
    (3, 3, 8, 16),
    (16,),
    (3, 3, 16, 32),
    (32,),
    (2048, 32),
    (32,),
    (32, 1),
    (1,),
)
EXAMPLES = 16  # that every client says it has trained on


@dataclass(frozen=True, slots=True)
class Plan:
    """So many clients, so many rounds that count; `settle` rounds before them do not.

    One of them is every system's warm-up. A codec profile with one of its own gets as many as that takes.
    """

    clients: int
    rounds: int
    codec: str = "small"  # of ours, both ways
    settle: int = 1
    broker: str = "auto"
    timeout_s: float = 900.0  # for all rounds of one system
    network: str = "loopback"  # or namespaces
    link: str | None = None  # of each client, both ways, as ``10mbit``; namespaces only
    offloads: bool = (
        False  # leave segmentation to the namespaces' interfaces, as a fast server's card does it
    )
    pin: bool = False  # all systems on one core, the rig on the others

    @property
    def all_rounds(self) -> int:
        """Those that do not count included."""
        return self.settle + self.rounds


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system. What its bytes are bytes of stands in the comparison's `Setup`.

    Attributes:
        round_s: median over the rounds that count, from the end of one to the end of the next.
        rounds_s: each of them.
        settled_s: from the start of the clients to the end of the last round that does not count.
        bytes_up_per_client_round: of all connections in the rounds that count, over clients and rounds; down
            is towards the clients.
        bytes_down_once_per_client: before the rounds that count: programs, first weights, warm-up.
        messages_per_s: MQTT PUBLISH packets through the relay; None without one, and for what is not MQTT.
        client_pss_mb: median over the clients of each one's highest sample, all its processes together.
        client_processes: of one client, at that moment.
        server_pss_mb: highest sample of the server and all its children, the broker included.
        client_cpu_s_per_round: seconds of a processor, as the others; None after too short a time to know.
    """

    name: str
    round_s: float
    rounds_s: tuple[float, ...]
    settle: int
    settled_s: float
    bytes_up_per_client_round: float
    bytes_down_per_client_round: float
    bytes_up_once_per_client: float
    bytes_down_once_per_client: float
    messages_per_s: float | None
    client_pss_mb: float
    client_rss_mb: float
    client_processes: int
    client_cpu_s_per_round: float | None
    server_pss_mb: float
    server_rss_mb: float
    server_cpu_s_per_round: float | None
    broker_pss_mb: float | None
    broker_cpu_s_per_round: float | None
    note: str
