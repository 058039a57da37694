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

# What TensorFlow prints past every logger: dated lines of its C++ half, and the quantiser's settings.
NOISE = re.compile(
    rb"[IWE]\d{4} |WARNING: All log messages before absl|WARNING:absl:|INFO: |fully_quantize: |Estimated "
)
TALKATIVE = {"absl": "absl.logging", "tensorflow": "tensorflow"}  # logger: the module that makes it


def tensorflow() -> Any:
    """The module `tensorflow`, with ``tf.keras`` being tf_keras."""
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with _filtered_descriptor(2):  # about missing GPUs and oneDNN, on every start
            importlib.import_module("tensorflow")
    return sys.modules["tensorflow"]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the converter's paragraphs of advice on standard error; what others write there comes after."""
    with quiet_loggers(), _filtered_descriptor(2):
        yield


@contextmanager
def quiet_loggers() -> Iterator[None]:
    """Without warnings that go through `logging`, the root logger's own included; a progress bar goes on."""
    # A logger that is made before its module is imported would be of the wrong class.
    loggers = [logging.getLogger(name) for name, module in TALKATIVE.items() if module in sys.modules]
    loggers.append(logging.getLogger())
    errors = _ErrorsOnly()  # one for each entry: the inner of two must not take the outer one's away
    for logger in loggers:
        logger.addFilter(errors)  # not a level: the converter sets its own
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(errors)


class _ErrorsOnly(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


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
