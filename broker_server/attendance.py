"""Who is there, what they have, and whether they can take part.

Presence says that a device is connected, its Hello what it is. One of which Presence alone has come is asked.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from broker_server import clock
from broker_server.config import ServerConfig
from broker_server.incidents import Incidents
from broker_server.report.observer import DeviceJoined, DeviceLeft, RunObserver
from broker_server.rounds.machine import Joined, Left, RunState
from broker_server.stages import Stages
from edge_client.wire.fields import Message
from edge_client.wire.presence import Hello, HelloRequest, Presence

ASK_S = 2.0  # between requests for a hello that is missing

OnFit = Callable[[str, Hello], None]


class Attendance:
    """The devices of one fleet, as the broker and they themselves say.

    `on_fit` is told of every hello of a device that can take part.
    """

    def __init__(
        self,
        config: ServerConfig,
        stages: Stages,
        observer: RunObserver,
        incidents: Incidents,
        on_fit: OnFit,
    ) -> None:
        self._config = config
        self._stages = stages
        self._observer = observer
        self._incidents = incidents
        self._on_fit = on_fit
        self._hellos: dict[str, Hello] = stages.ledger.devices()
        self._present: dict[str, str] = {}  # device: its process's session, as the broker says
        self._unfit: dict[str, str] = {}  # device: why it cannot take part
        self._ask_at = 0.0

    @property
    def hellos(self) -> Mapping[str, Hello]:
        """The latest introduction of every device ever seen."""
        return self._hellos

    @property
    def present(self) -> frozenset[str]:
        """Devices that are connected."""
        return frozenset(self._present)

    @property
    def reachable(self) -> frozenset[str]:
        """Devices that are there and may get a model."""
        return frozenset(self._present) & frozenset(self._hellos) - frozenset(self._unfit)

    def ask_for_hellos(self, tell: Callable[[str, Message], None]) -> None:
        """Ask those that are there and have not said what they are."""
        now = time.monotonic()
        if now < self._ask_at:
            return
        self._ask_at = now + ASK_S
        for device, session in self._present.items():
            hello = self._hellos.get(device)
            if hello is None or hello.session != session:
                tell(device, HelloRequest(session=session))

    def on_presence(self, device: str, presence: Presence, state: RunState) -> Joined | Left | None:
        """A device came or went; what the round machine is to be told."""
        hello = self._hellos.get(device)
        same = hello is not None and hello.session == presence.session
        if presence.state == "online":
            self._present[device] = presence.session
            return Joined(device) if same and device not in self._unfit else None
        if hello is not None and not same:
            return None  # an old process's last will
        self._present.pop(device, None)
        if device in state.online:
            self._observer.device_left(DeviceLeft(device))
            if device in state.outstanding:
                grace = f"waited up to {self._config.rounds.grace_s:g} s for it"
                self._incidents.note(device, "left in the middle of a task", grace)
        return Left(device)

    def on_hello(self, device: str, hello: Hello, state: RunState) -> Joined | None:
        """A device has introduced itself; None where it cannot take part."""
        returned = device in self._hellos
        self._hellos[device] = hello
        self._present[device] = hello.session
        self._stages.ledger.keep_hello(device, hello, clock.now())
        if problem := self._problem_of(device, hello):
            if self._unfit.get(device) != problem:
                self._incidents.note(device, f"cannot take part: {problem}", "the run goes on without it")
            self._unfit[device] = problem
            return None
        self._unfit.pop(device, None)
        self._on_fit(device, hello)
        if device not in state.online:
            self._observer.device_joined(
                DeviceJoined(device, hello.data.examples, hello.runtime, hello.architecture, returned)
            )
        return Joined(device)

    def _problem_of(self, device: str, hello: Hello) -> str | None:
        """Why a device cannot take part in this run; None if it can."""
        if hello.data.kind != self._config.model.kind:
            return f"it has {hello.data.kind} data, the model takes {self._config.model.kind} data"
        if not hello.data.examples:
            return "it has no training examples"
        classes = self._config.model.classes or self._stages.classes
        if classes and (strange := sorted(set(hello.data.counts) - set(classes))):
            return f"label {strange[0]!r} is not one of the model's classes"
        columns = self._stages.columns or self._usual_columns(device)
        if columns and set(hello.data.columns) != set(columns):
            return "its table has other columns than the fleet's"
        return None

    def _usual_columns(self, device: str) -> tuple[str, ...]:
        """The columns that most other devices have; empty without others."""
        others = Counter(
            hello.data.columns
            for name, hello in self._hellos.items()
            if name != device and name not in self._unfit
        )
        return others.most_common(1)[0][0] if others else ()
