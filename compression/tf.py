"""TensorFlow, imported the one way that works here.

tensorflow-model-optimization knows Keras 2 only, so ``tf.keras`` has to be tf_keras, and TensorFlow decides
that once, while it is imported. A module that needs TensorFlow calls `tensorflow()` where it needs it: import
time stays with those who convert.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What the converter prints past every logger: dated lines of its C++ half, and the quantiser's settings.
NOISE = re.compile(
    rb"[IWE]\d{4} |WARNING: All log messages before absl|fully_quantize: |INFO: |Estimated count"
)


def tensorflow() -> Any:
    """The module `tensorflow`, with ``tf.keras`` being tf_keras."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else a paragraph about missing GPUs on every start
    return importlib.import_module("tensorflow")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the converter's paragraphs of advice on standard error; what others write there comes after."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with _filtered_descriptor(2):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _filtered_descriptor(descriptor: int) -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(descriptor)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, descriptor)
            os.close(kept)
            caught.seek(0)
            for line in caught:
                if not NOISE.match(line):
                    os.write(descriptor, line)
