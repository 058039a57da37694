"""What a device remembers across reboots: one directory, every file replaced atomically.

::

    lock                held by the one agent that uses the directory
    state.json          the newest task and release, the version of the weights held
    weights.bin         the fleet's weights of that version (`compression.spec.pack_weights`)
    control.bin         the fleet's control variate (SCAFFOLD)
    residual.bin        error feedback: what compression has kept back so far
    variate.bin         the device's own control variate (SCAFFOLD)
    personal.bin        tensors that stay on the device (FedPer)
    tuned.bin           the whole model after local fine-tuning
    pending/result.json a result without a receipt (written last: it makes the others count)
    pending/payload.bin its payload
    pending/NAME.bin    what residual, variate, personal or tuned is once the result is accepted

What a device remembers survives each way an update can end. Accepted: what is pending takes the place of
what was. Refused, or the round aborted: it is dropped and the old stands. Power lost between coding and
receipt: the same bytes are offered again, and the server, which counts a device once a task, repeats its
receipt; lost while several files take their places, the rest of them follows with that receipt.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from compression.errors import BrambleError
from compression.records import Record, RecordError, dumps, loads
from compression.spec import ModelSpec, SpecError, Weights, pack_weights, unpack_weights, weights_digest
from edge_client.files import remove_left_overs, sync_directory, write_atomically
from edge_client.wire.blobs import sha256
from edge_client.wire.fields import Number
from edge_client.wire.rollout import ReleaseReport
from edge_client.wire.rounds import Result

log = logging.getLogger(__name__)

MAX_STATE_BYTES = 1 << 20
OF_A_RUN = ("residual", "variate", "personal")  # made with the other devices of one run
KEPT = (*OF_A_RUN, "tuned")  # takes effect with a receipt
Kept = Mapping[str, Weights]


@dataclass(frozen=True, slots=True)
class Memory(Record):
    """The small facts. Numbers only grow; the server's signature vouches for where they came from."""

    task: Number = 0  # the newest task that was carried out
    bundle: str = ""  # digest of the training bundle that weights and all that is kept belong to
    run: str = ""  # that residual, variate and personal tensors belong to
    weights_version: Number = 0
    weights_digest: str = ""
    control_digest: str = ""
    release: Number = 0  # order of the newest release that was decided on
    release_report: ReleaseReport | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A result that the server has not yet acknowledged."""

    result: Result
    payload: bytes


class DeviceState:
    """The state directory of one device, for its owner's eyes only. One agent at a time: it is locked.

    Raises:
        StateError: another agent uses the directory, or `state.json` is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._lock = (directory / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by a killed process too
        except BlockingIOError as exc:
            self._lock.close()
            raise StateError(
                f"{directory} is in use by another agent; stop it, or set another state"
            ) from exc
        remove_left_overs(directory)
        (directory / "pending").mkdir(exist_ok=True)
        self._memory = self._read_memory()
        self._pending = self._read_pending()
        self._held: tuple[str, Weights] = ("", {})  # the fleet's weights in memory, and their digest
        if self._pending is not None:  # the power may have gone before `keep_pending` remembered
            task = max(self._memory.task, self._pending.result.task)
            self.remember(replace(self._memory, task=task))
        if self._memory.weights_digest and self._digest_on_disk() != self._memory.weights_digest:
            self._forget_weights()

    def close(self) -> None:
        """Let another agent use the directory."""
        self._lock.close()

    @property
    def memory(self) -> Memory:
        """The small facts."""
        return self._memory

    def remember(self, memory: Memory) -> None:
        """Keep new facts."""
        if memory != self._memory:
            write_atomically(self.directory / "state.json", dumps(memory))
            self._memory = memory

    # ---- weights ----

    def use_bundle(self, digest: str) -> None:
        """Weights and all that is kept belong to one bundle: with another one they are dropped."""
        if self._memory.bundle == digest:
            return
        self._held = ("", {})
        self._remove("weights", "control", *KEPT)
        self.settle(accepted=False)
        memory = replace(self._memory, bundle=digest, weights_version=0, weights_digest="", control_digest="")
        self.remember(memory)

    def use_run(self, run: str) -> None:
        """What is owed to one run means nothing to the next: it is dropped."""
        if self._memory.run != run:
            self._remove(*OF_A_RUN)
            self.remember(replace(self._memory, run=run))

    def _remove(self, *names: str) -> None:
        for name in names:
            (self.directory / f"{name}.bin").unlink(missing_ok=True)

    def weights(self, spec: ModelSpec) -> Weights | None:
        """The fleet's weights as last received; None if there are none.

        Weights that the disk has damaged are forgotten, so that they are fetched again as a whole.
        """
        if not (digest := self._memory.weights_digest):
            return None
        if self._held[0] == digest:
            return self._held[1]
        with contextlib.suppress(OSError, SpecError):
            weights = unpack_weights((self.directory / "weights.bin").read_bytes(), spec)
            if weights_digest(weights) == digest:
                self._held = (digest, weights)
                return weights
        self._forget_weights()
        return None

    def _digest_on_disk(self) -> str:
        """`weights_digest` of the file, which is of its bytes; empty without one."""
        with contextlib.suppress(OSError):
            return sha256((self.directory / "weights.bin").read_bytes())
        return ""

    def _forget_weights(self) -> None:
        log.warning("%s: weights.bin is not version %d", self.directory, self._memory.weights_version)
        self.remember(replace(self._memory, weights_version=0, weights_digest=""))

    def keep_weights(self, version: int, digest: str, weights: Weights) -> None:
        """Replace the fleet's weights."""
        write_atomically(self.directory / "weights.bin", pack_weights(weights))
        self.remember(replace(self._memory, weights_version=version, weights_digest=digest))
        self._held = (digest, weights)

    def control(self, spec: ModelSpec) -> Weights | None:
        """The fleet's control variate as last received; None if there is none, or it is damaged."""
        control = self._unpacked("control", spec.trainable)
        if control is not None and weights_digest(control) == self._memory.control_digest:
            return control
        self.remember(replace(self._memory, control_digest=""))
        return None

    def keep_control(self, digest: str, control: Weights) -> None:
        """Replace the fleet's control variate."""
        write_atomically(self.directory / "control.bin", pack_weights(control))
        self.remember(replace(self._memory, control_digest=digest))

    def kept(self, name: str, spec: ModelSpec) -> Weights | None:
        """One of `KEPT`, whose tensors are the spec's; None at the start."""
        return self._unpacked(name, spec)

    def _unpacked(self, name: str, spec: ModelSpec) -> Weights | None:
        with contextlib.suppress(OSError, SpecError):
            return unpack_weights((self.directory / f"{name}.bin").read_bytes(), spec)
        return None

    # ---- the result on its way ----

    def keep_pending(self, result: Result, payload: bytes, kept: Kept = MappingProxyType({})) -> None:
        """Write a result down before it leaves the device, with what is kept once it is accepted."""
        folder = self.directory / "pending"
        for name, weights in kept.items():
            write_atomically(folder / f"{name}.bin", pack_weights(weights))
        for path in folder.iterdir():  # an older result's
            if path.stem in KEPT and path.stem not in kept:
                path.unlink()
        write_atomically(folder / "payload.bin", payload)
        write_atomically(folder / "result.json", dumps(result))
        self._pending = Pending(result, payload)
        self.remember(replace(self._memory, task=result.task))

    @property
    def pending(self) -> Pending | None:
        """The result without a receipt, if any."""
        return self._pending

    def _read_pending(self) -> Pending | None:
        folder = self.directory / "pending"
        with contextlib.suppress(OSError, RecordError):
            result = loads(Result, (folder / "result.json").read_bytes(), max_bytes=MAX_STATE_BYTES)
            return Pending(result, (folder / "payload.bin").read_bytes())
        return None

    def settle(self, *, accepted: bool) -> None:
        """The pending result has its receipt, or never will."""
        self._pending = None
        folder = self.directory / "pending"
        if accepted:
            for path in folder.iterdir():
                if path.stem in KEPT:
                    path.replace(self.directory / path.name)
            sync_directory(self.directory)
        (folder / "result.json").unlink(missing_ok=True)
        sync_directory(folder)
        for path in folder.iterdir():
            path.unlink()

    def _read_memory(self) -> Memory:
        path = self.directory / "state.json"
        if not path.exists():
            return Memory()
        try:
            return loads(Memory, path.read_bytes(), max_bytes=MAX_STATE_BYTES)
        except RecordError as exc:
            raise StateError(f"{path} is damaged ({exc}); remove it to start afresh") from exc


class StateError(BrambleError, RuntimeError):
    """The state directory cannot be used."""
