"""An image onto cards: erase the partition table, write, read back, personalise, and the first block last.

Until its first block is written a target does not look like a card: nothing boots from it and nothing
mounts it. That block follows only when everything else has been read back from the medium.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from compression.errors import BrambleError
from provisioning.image.capacity import check_capacity
from provisioning.image.errors import ImageError
from provisioning.image.hashed_file import HashedFile
from provisioning.image.plan import Destination, FlashPlan, check_destination
from provisioning.image.sources import read_image
from provisioning.image.target import Target, open_target
from provisioning.image.verify import check_body, check_head
from provisioning.image.writer import Content, write_body

NOTHING = Content(0, (), b"")
UNLIMITED = 1 << 50  # of a file: the disk that it lies on is full long before

Recheck = Callable[[], None]  # reads what was personalised again and raises if it differs
Personalise = Callable[[Destination, bytes], Recheck]  # gets the first bytes, which are not on the card yet
Step = Literal["writing", "reading back", "personalising"]
Begin = Callable[[], Personalise | None]
OnProgress = Callable[[Step, int], None]  # bytes done of the step, by the slowest target


@dataclass(slots=True)
class Outcome:
    """How it ended for one target. Times in seconds; each step waits for the slowest target."""

    destination: Destination
    state: Literal["unfinished", "done"] = "unfinished"
    reason: str = ""
    verified: bool = False
    personalised: bool = False
    bytes: int = 0
    sha256: str = ""  # of the image file
    seconds: dict[str, float] = field(default_factory=dict)


def no_progress(_step: Step, _count: int) -> None:
    """For those who do not want to know."""


def flash(
    plan: FlashPlan,
    *,
    personalise: Personalise | None = None,
    begin: Begin | None = None,
    on_progress: OnProgress = no_progress,
) -> list[Outcome]:
    """Carry a plan out. A target that fails keeps nobody else; it is left without a first block.

    Args:
        begin: called once every target is held and nothing is written yet, for what should not be done for
            a card that is refused; what it gives takes the place of `personalise`.

    Raises:
        RefusedError: before anything is written, if a target is not what it was when planned.
    """
    with ExitStack() as stack:
        targets: dict[Target, Outcome] = {}
        for destination in plan.destinations:
            target = open_target(destination.path, destination.disk)
            stack.callback(target.close)
            targets[target] = Outcome(destination)
        for target, outcome in targets.items():
            target.check_identity()
            check_destination(outcome.destination, plan.image, plan.erase_serials)
        if begin is not None:
            personalise = begin()
        _Run(plan, targets, personalise, on_progress).all_steps()
    return list(targets.values())


class _Run:
    """The steps over the targets that are still good."""

    def __init__(
        self,
        plan: FlashPlan,
        outcomes: Mapping[Target, Outcome],
        personalise: Personalise | None,
        on_progress: OnProgress,
    ) -> None:
        self.plan = plan
        self.outcomes = outcomes
        self.personalise = personalise
        self.on_progress = on_progress

    def all_steps(self) -> None:
        """From the first byte to the last."""
        with self._timed("prepare"):
            self._each(_prepare)
        with self._timed("write"):
            content = self._write()
        with self._timed("verify"):
            self._each(partial(self._verify, content))
        if self.personalise is not None:
            with self._timed("personalise"):
                self.on_progress("personalising", 0)
                self._each(partial(self._personalise, content))
        with self._timed("finish"):
            self._each(partial(self._finish, content))

    def _write(self) -> Content:
        image = self.plan.image
        good = self._good()
        if not good:
            return NOTHING
        limit = min((target.capacity or UNLIMITED for target in good), default=UNLIMITED)
        with HashedFile(image.path) as file:
            try:
                pieces = read_image(image, file, limit=limit)
                content, failed = write_body(pieces, good, partial(self.on_progress, "writing"))
            except (ImageError, OSError) as exc:  # whatever has been written is not the image
                content, failed = NOTHING, dict.fromkeys(good, exc)
            for target, error in failed.items():
                self.outcomes[target].reason = _reason(error)
            for target in self._good():
                self.outcomes[target].bytes = content.size
                self.outcomes[target].sha256 = file.sha256()
        return content

    def _verify(self, content: Content, target: Target) -> None:
        first = next(iter(self._good()), None)
        report = partial(self.on_progress, "reading back") if target is first else lambda _count: None
        check_body(target, content, report)
        self.outcomes[target].verified = True

    def _personalise(self, content: Content, target: Target) -> None:
        assert self.personalise is not None  # noqa: S101 - all_steps looked
        recheck = self.personalise(self.outcomes[target].destination, content.head)
        target.drop_cache()
        recheck()
        self.outcomes[target].personalised = True

    def _finish(self, content: Content, target: Target) -> None:
        try:
            target.write_head(content.head)
            target.set_size(content.size)
            check_head(target, content)
        except BaseException:
            with suppress(OSError):
                target.blank_head()
            raise
        self.outcomes[target].state = "done"

    def _good(self) -> list[Target]:
        return [target for target, outcome in self.outcomes.items() if not outcome.reason]

    def _each(self, step: Callable[[Target], None]) -> None:
        """A step for all targets at once; what goes wrong with one is its own affair."""
        good = self._good()
        if not good:
            return
        with ThreadPoolExecutor(len(good), "flash") as pool:
            try:
                for target, result in [(target, pool.submit(step, target)) for target in good]:
                    if error := result.exception():
                        self._failed(target, error)
            except BaseException:  # interrupted: do not wait for whole cards
                for target in good:
                    target.stopped = True
                raise

    def _failed(self, target: Target, error: BaseException) -> None:
        if not isinstance(error, (BrambleError, OSError)):
            raise error
        self.outcomes[target].reason = _reason(error)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        for outcome in self.outcomes.values():
            outcome.seconds[name] = time.perf_counter() - start


def _prepare(target: Target) -> None:
    target.blank_head()
    check_capacity(target)


def _reason(error: BaseException) -> str:
    """Never empty: a target without a reason is a good one."""
    return " ".join(str(error).split()) or type(error).__name__
