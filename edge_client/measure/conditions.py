"""What the machine went through while something was measured: temperature, clock, throttling.

A sensor that a machine does not have is named, not passed over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_client.measure.environment import firmware_throttled, read_clock, read_temperature
from edge_client.wire.measurement import Conditions

EVERY_S = 1.0  # asking the firmware starts a process


class Watch:
    """Looks at the sensors every second in a thread of its own, while entered."""

    def __init__(
        self,
        temperature: Callable[[], float | None] = read_temperature,
        clock: Callable[[], float | None] = read_clock,
        throttled: Callable[[], bool | None] = firmware_throttled,
    ) -> None:
        self._sensors = {"temperature": temperature, "clock": clock, "throttling": throttled}
        self._seen: dict[str, list[float]] = {name: [] for name in self._sensors}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="conditions", daemon=True)

    def __enter__(self) -> Watch:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """One look at each sensor."""
        for name, read in self._sensors.items():
            if (value := read()) is not None:
                self._seen[name].append(float(value))

    @property
    def conditions(self) -> Conditions:
        """What was seen so far."""
        heat, clock, slowed = self._seen["temperature"], self._seen["clock"], self._seen["throttling"]
        return Conditions(
            temperature_c=(heat[0], max(heat)) if heat else None,
            clock_mhz=(min(clock), max(clock)) if clock else None,
            throttled=any(slowed) if slowed else None,
            missing=tuple(name for name, values in self._seen.items() if not values),
            temperature_after_c=heat[-1] if heat else None,
        )

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.look()
