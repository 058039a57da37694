"""What a device says of itself is always a valid record, whatever its sensors say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edge_client.health import health


@pytest.mark.parametrize(
    ("celsius", "said"), [(55.5, 55.5), (255.0, None), (-127.0, None), (float("nan"), None), (0.0, 0.0)]
)
def test_a_temperature_that_cannot_be_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, celsius: float, said: float | None
) -> None:
    readings = {"cpu_thermal": [SimpleNamespace(current=celsius)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: readings, raising=False)
    assert health(tmp_path).temperature_c == said
