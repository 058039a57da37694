"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # before anything imports TensorFlow
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

settings.register_profile("bramble", deadline=None)  # a busy machine, or an emulated one, proves nothing
settings.load_profile("bramble")

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def medical_data() -> Path:
    """The folder of real medical images; they are not ours to ship, so tests skip where it is absent."""
    for candidate in (os.environ.get("BRAMBLE_DATA"), CHECKOUT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "pneumoniamnist").is_dir():
            return Path(candidate)
    pytest.skip("no medical images: set BRAMBLE_DATA to a folder that holds pneumoniamnist/ and the others")
