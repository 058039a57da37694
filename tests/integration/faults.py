"""The real programs with something wrong around them, as children of the tests.

::

    python -m tests.integration.faults FAULTS broker_server.cli run --config server.toml

FAULTS is a `Faults` as JSON. What is wrong is outside the product's code: the process is killed at a named
point, the clock jumps, messages come twice or late, a device lies. The program is the one that people run.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from compression.records import Record, dumps, loads
from tests.integration.points import arm

LATE = 12  # messages later: about two rounds for a device
TOGETHER_S = 0.02  # two messages that come within this are swapped


@dataclass(frozen=True, slots=True)
class Faults(Record):
    """What goes wrong in one process.

    Attributes:
        at: the named point at which it happens; empty for nowhere.
        kill: process to be killed there; 0 for the process itself.
        family: the process's children are killed with it, as in a power cut.
        freeze: it is stopped there, until somebody sends SIGCONT; not killed.
        jump_s: seconds that the clock jumps there; nobody is killed then. At once without a point.
        unreliable: every message comes twice, some in another order, and again much later.
        claim: examples that a device says it trained on; 0 for the truth.
        program: folder with a compiled training program, which saves ten seconds of TensorFlow.
    """

    at: str = ""
    kill: int = 0
    family: bool = False
    freeze: bool = False
    jump_s: float = 0.0
    unreliable: bool = False
    claim: int = 0
    program: str = ""

    def text(self) -> str:
        """For the command line."""
        return dumps(self).decode()

    def arrange(self) -> None:
        """Prepare this process for them."""
        if self.program:
            take_program(Path(self.program))
        if self.unreliable:
            deliver_badly()
        if self.claim:
            claim_examples(self.claim)
        if self.at:
            arm(self.at, self._happen)
        elif self.jump_s:
            jump(self.jump_s)

    def _happen(self) -> None:
        if self.jump_s:
            jump(self.jump_s)
            print(f"the clock jumps by {self.jump_s:g} s", file=sys.stderr)
        else:
            for child in psutil.Process().children(recursive=True) if self.family else ():
                child.kill()
            os.kill(self.kill or os.getpid(), signal.SIGSTOP if self.freeze else signal.SIGKILL)


def take_program(folder: Path) -> None:
    """Use a program that was compiled before, for the same input and classes."""
    from broker_server import stages
    from compression.spec import TrainableBundle
    from compression.updates import unpack_model

    bundle = TrainableBundle.from_bytes((folder / "bundle").read_bytes())
    weights = unpack_model((folder / "weights").read_bytes(), bundle.spec.tensors)

    def compiled(_config: Any, input: Any, classes: Any) -> Any:
        assert (input, tuple(classes)) == (bundle.spec.input, bundle.spec.classes)
        return bundle, weights

    stages.compile_program = compiled


def jump(seconds: float) -> None:
    """Somebody, or a time server, sets the clock."""
    before = time.time

    def after() -> float:
        return before() + seconds

    time.time = after


def claim_examples(number: int) -> None:
    """Every training report names this number of examples and of steps."""
    from edge_client import work

    honest = work.TrainingReport

    def lie(**fields: Any) -> Any:
        return honest(**{**fields, "examples": number, "steps": number})

    work.TrainingReport = lie  # type: ignore[assignment, misc]


def deliver_badly() -> None:
    """Between the connection and its reader: each message twice, neighbours swapped, and once more, late."""
    from edge_client.session.inbox import Inbox, Incoming

    get = Inbox.get
    ready: deque[Any] = deque()
    past: deque[Incoming] = deque()
    counts: Counter[str] = Counter()

    def faulty(self: Inbox, timeout_s: float) -> Any:
        if ready:
            return ready.popleft()
        item = get(self, timeout_s)
        if not isinstance(item, Incoming):
            return item
        following = get(self, TOGETHER_S)
        swapped = isinstance(following, Incoming)
        news = [following, item] if swapped else [item] if following is None else [item, following]
        again = [replace(each, acknowledge=lambda: None) for each in news if isinstance(each, Incoming)]
        past.extend(again)
        late = [past.popleft() for _ in range(len(past) - LATE)]
        counts.update(twice=len(again), swapped=swapped, late=len(late))
        ready.extend([*news, *again, *late])
        return ready.popleft()

    Inbox.get = faulty  # type: ignore[method-assign]
    atexit.register(lambda: print("delivered badly:", dict(counts), file=sys.stderr))


def main(arguments: list[str]) -> int:
    """Arrange the faults, then be the program."""
    faults, module, *rest = arguments
    loads(Faults, faults.encode(), max_bytes=1 << 16).arrange()
    return int(importlib.import_module(module).main(rest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
