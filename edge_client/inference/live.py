"""The model that answers now, for a program that runs on: a switch takes effect at the next answer."""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path

from edge_client.inference.answering import Answer, Answerer
from edge_client.inference.installed import ActiveModel, SlotError
from edge_client.inference.predictor import FloatArray, PredictionError
from edge_client.inference.slots import ModelSlots
from edge_client.inference.usage import UsageLog

log = logging.getLogger(__name__)

AGAIN_S = 30.0  # until a model that could not be loaded is tried again: it may have been for want of memory


class LiveModel:
    """Answers, counts, and follows the agent's switches. Threads take turns: a runtime answers one at a time.

    Raises:
        SlotError: there is no released model yet, or none is whole.
        PredictionError: it cannot be run here.
    """

    def __init__(self, directory: Path, *, threads: int = 1) -> None:
        self._slots = ModelSlots(directory)
        self._directory = directory
        self._threads = threads
        self._turn = threading.Lock()
        self._again_at = math.inf
        self._stamp = self._slots.stamp()
        model = self._slots.active()
        if model is None:
            raise SlotError(self._slots.why_none())
        self._answerer: Answerer | None = Answerer(model, threads=threads)
        self._usage = UsageLog(directory, model.version)

    def __enter__(self) -> LiveModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._usage.flush()

    @property
    def model(self) -> ActiveModel:
        """What answers; raise `SlotError` once it was withdrawn, as `answer` does."""
        self._follow()
        return self._active().model

    def answer(self, example: FloatArray) -> Answer:
        """Answer for one preprocessed input; raise `PredictionError` if the model fails."""
        self._follow()
        with self._turn:
            try:
                answer = self._active().answer(example)
            except PredictionError:
                self._usage.add(errors=1)
                raise
            self._usage.add(answers=not answer.refused, unlike=answer.refused)
            return answer

    def _active(self) -> Answerer:
        answerer = self._answerer
        if answerer is None:
            raise SlotError(self._slots.why_none())
        return answerer

    def _follow(self) -> None:
        """Load the model anew if the pointer has changed; one that cannot be loaded does not answer."""
        stamp = self._slots.stamp()
        if stamp == self._stamp and time.monotonic() < self._again_at:
            return
        with self._turn:
            self._stamp, self._again_at = stamp, math.inf
            try:
                model = self._slots.active()
                if model is None:
                    self._answerer = None
                    log.warning("%s", self._slots.why_none())
                    return
                self._answerer = Answerer(model, threads=self._threads)
            except (SlotError, PredictionError, MemoryError) as exc:
                self._again_at = time.monotonic() + AGAIN_S
                log.warning("%s; %s", exc, _goes_on(self._answerer))
                return
            self._usage.flush()
            self._usage = UsageLog(self._directory, model.version)
            log.info("model %d answers from now on", model.version)


def _goes_on(answerer: Answerer | None) -> str:
    return f"model {answerer.model.version} goes on answering" if answerer else "none answers"
