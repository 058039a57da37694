"""Where orders are taken: each is carried out or refused, and the answer is written beside it."""

from __future__ import annotations

from broker_server.rollout.machine import Abort, Pause, Promote, RolloutState
from broker_server.rollout.orders import MAX_ORDER_BYTES, REFUSED, Order
from broker_server.rollout.planning import RolloutError
from broker_server.rollout.registry import ModelRecord
from broker_server.rollout.release import Rollout
from compression.errors import BrambleError
from compression.records import loads


class Desk:
    """Carries out what commands have written into the ledger."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout

    def take_orders(self, online: frozenset[str]) -> None:
        """Answer every order that waits. A server that is killed meanwhile has done nothing of it."""
        for number, text in self._rollout.store.open_orders().items():
            try:
                order = loads(Order, text.encode(), max_bytes=MAX_ORDER_BYTES)
                pushed = self._made(order) if order.kind == "push" else None  # slow: the ledger stays free
                with self._rollout.all_or_nothing():
                    answer = self._obey(order, pushed, online)
                    self._rollout.store.answer_order(number, answer)
            except BrambleError as exc:
                answer = f"{REFUSED}{exc}"
                self._rollout.store.answer_order(number, answer)
            self._rollout.note(answer)

    def _obey(self, order: Order, pushed: ModelRecord | None, online: frozenset[str]) -> str:
        """Carry out one order; what was done, in words.

        Raises:
            BrambleError: it cannot be done as things stand; nothing is changed.
        """
        match order.kind:
            case "push":
                return self._push(pushed, online)
            case "promote":
                return self._promote(order, online)
            case "rollback":
                return self._roll_back(order)
            case "pause":
                state = self._at_work()
                self._rollout.feed(Pause())
                return f"the rollout of model {state.version} is paused"
            case "pin" | "unpin":
                return self._pin(order)

    def _made(self, order: Order) -> ModelRecord:
        self._need_nothing_at_work()
        if order.model is None:
            raise RolloutError("a push needs a model")
        version, parent = self._rollout.next_version(), self._rollout.current
        return self._rollout.maker.from_file(version, parent, order.model, order.origin, order.recipe)

    def _push(self, record: ModelRecord | None, online: frozenset[str]) -> str:
        if record is None:
            raise RolloutError("a push needs a model")
        self._rollout.registry.add(record)
        self._rollout.start(record, online)
        return f"{record.origin} is model {record.version}, and its rollout has begun"

    def _promote(self, order: Order, online: frozenset[str]) -> str:
        state = self._rollout.at_work
        if state is not None and order.version in (0, state.version):
            self._rollout.feed(Promote(everyone=order.everyone))
            return f"model {state.version} goes on"
        if not order.version:
            raise RolloutError("no rollout is at work: name the version to promote")
        self._need_nothing_at_work()
        self._rollout.start(self._rollout.registry.get(order.version), online)
        return f"the rollout of model {order.version} has begun"

    def _roll_back(self, order: Order) -> str:
        rollout = self._rollout
        if (state := rollout.at_work) is not None:
            if order.version not in (0, state.back_to):
                raise RolloutError(
                    f"the rollout of model {state.version} can only go back to model {state.back_to}: "
                    f"leave the version out, then roll back to {order.version}"
                )
            rollout.feed(Abort("somebody said so"))
            return f"model {state.version} is taken back"
        current = rollout.current
        back_to = order.version or (rollout.registry.get(current).parent if current else 0)
        if not back_to or back_to >= current:
            raise RolloutError(f"there is no model before {current} to go back to")
        rollout.take_back(back_to, "somebody said so")
        return f"the fleet goes back from model {current} to model {back_to}"

    def _pin(self, order: Order) -> str:
        rollout, device = self._rollout, order.device
        hello = rollout.store.hello(device)
        if hello is None:
            raise RolloutError(f"there is no device {device!r} in this fleet")
        if order.kind == "pin":
            rollout.registry.get(order.version)
        rollout.store.pin(device, order.version if order.kind == "pin" else None)
        rollout.put_right(device, hello)
        return (
            f"{device} is pinned at model {order.version}"
            if order.kind == "pin"
            else f"{device} is free again"
        )

    def _at_work(self) -> RolloutState:
        state = self._rollout.at_work
        if state is None:
            raise RolloutError("no rollout is at work")
        return state

    def _need_nothing_at_work(self) -> None:
        if (state := self._rollout.at_work) is not None:
            raise RolloutError(
                f"the rollout of model {state.version} is {state.phase}: promote it or roll it back first"
            )
