"""Deliberate bugs, each in one function: what the auditor is worth is how many of them it finds.

Each one names a fault under which it shows. `hunt` runs schedules drawn from seeds until one fails, as the
auditor would find a bug that nobody knows of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
from services.executor.control import Control
from services.executor.reservations import Request
from services.gateway.answers import Answers
from services.gateway.feed import Feed
from services.gateway.handlers import GatewayHandlers
from services.gateway.journal import Journal
from services.gateway.outbox import Outbox
from services.gateway.protection import Protection
from services.gateway.reconcile import Reconcile
from services.gateway.recovery import Recovery
from services.notifier.handlers import NotifierHandlers
from shared.messages import Command
from shared.runtime import Runtime
from sim.faults import Fault, FaultKind, Schedule
from sim.runner import Outcome, run_schedule, run_seed
from sim.server import MemoryServer, Write
from sim.venue import Cut

SHOWN_MAX = 20  # schedules in which a mutation is to show itself
SCHEDULES_MAX = 400  # drawn in a hunt before a mutation counts as missed
_JOURNAL = "gateway services.gateway.executions.Executions.record_all journal.record:before"
_ACKNOWLEDGED = "executor sim.mutations._acknowledge_first bus.commit:after"


@dataclass(frozen=True)
class Mutation:
    """One bug: where it is put in, and what brings it to light."""

    name: str
    place: type
    method: str
    bug: Any  # what stands in the method's place
    faults: tuple[Fault, ...] = ()
    twins: tuple[str, ...] = ()

    @contextmanager
    def put_in(self) -> Iterator[None]:
        """Have the bug for the length of the block."""
        sound = self.place.__dict__[self.method]
        setattr(self.place, self.method, self.bug)
        try:
            yield
        finally:
            setattr(self.place, self.method, sound)

    def shown(self) -> Outcome:
        """Run schedules of the faults under which it shows, until one fails: seeds differ in who is first."""
        with self.put_in():
            for seed in range(1, SHOWN_MAX + 1):
                outcome = run_schedule(Schedule(seed, 0, self.twins, self.faults))
                if outcome.failed:
                    break
        return outcome

    def hunt(self, first_seed: int, limit: int = SCHEDULES_MAX) -> int | None:
        """Return how many schedules drawn from consecutive seeds it took to find it; None: too many."""
        with self.put_in():
            for number in range(limit):
                if run_seed(first_seed + number).failed:
                    return number + 1
        return None


# --- the bugs ---------------------------------------------------------------------------------------


async def _nothing(*_: Any, **__: Any) -> None:  # noqa: ANN401
    """Do nothing."""


async def _resend(self: Any, request: Any, session: Any) -> None:  # noqa: ANN401
    await self._timing.sleep_venue(self._answer_s)
    record = self._journal.order(request.client_order_id)
    if record is not None and record.status == "SENT":
        _send_again(session, request)


def _send_again(session: Any, request: Any) -> None:  # noqa: ANN401
    session.send_market_order(
        request.client_order_id,
        request.symbol,
        request.direction,
        request.volume_units,
        stop_points=1000,
        target_points=1000,
    )


async def _acknowledge_first(self: Any) -> None:  # noqa: ANN401
    if self._done:
        if self._service.settle:
            await self._service.settle()
        await self._bus.commit(self._done, [], self._service.state.snapshot())
        outputs = list(self._outputs)
        self._done.clear()
        self._outputs.clear()
        await self._bus.publish(outputs)


def _commit_without_mark(self: MemoryServer, write: Write) -> list[str]:
    ids = _COMMIT(self, write)
    if write.source is not None and write.source.name in self.marks.get(write.service, {}):
        self.marks[write.service].pop(write.source.name)
    return ids


_COMMIT = MemoryServer.commit


def _holder_is_anybody(self: MemoryServer, service: str) -> str:
    """Return a token that equals every token, where there is one."""
    return _Anybody(_HOLDER(self, service))


_HOLDER = MemoryServer.holder


class _Anybody(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


async def _publish_unnumbered(self: Any) -> None:  # noqa: ANN401
    first = self._pending[0]
    await self._bus.publish(first.outputs)
    self._written.append(self._pending.popleft())


async def _no_requests(*_: Any) -> dict[str, Any]:  # noqa: ANN401
    return {}


def _without_unsent(self: NotifierHandlers) -> bytes:
    queue, self._queue = self._queue, type(self._queue)()
    try:
        return _SNAPSHOT(self)
    finally:
        self._queue = queue


_SNAPSHOT = NotifierHandlers.snapshot


def _without_writing(self: Any, slices: Sequence[Any], *, live: bool, closed_s: float | None = None) -> None:  # noqa: ANN401
    if live:
        _WRITE(self, slices, live=live, closed_s=closed_s)


_WRITE = Feed._write


async def _without_state(self: Any) -> None:  # noqa: ANN401
    self._held.clear()
    self._done.clear()
    self._outputs.clear()
    await self._bus.load_marks()
    self._service.state.restore(None)


def _fault(kind: FaultKind, at: int = 12, **more: Any) -> Fault:  # noqa: ANN401
    return Fault(kind, at, more.pop("after_s", 0.0), **more)


def _many(kind: FaultKind, slices: Sequence[int], **more: Any) -> tuple[Fault, ...]:  # noqa: ANN401
    return tuple(_fault(kind, at, **more) for at in slices)


def _dies(point: str, *slices: int, nth: int = 1) -> tuple[Fault, ...]:
    return _many(FaultKind.DIE_AT, slices, service=point.partition(" ")[0], point=point, nth=nth)


def _sleeps(service: str, at: int) -> Fault:
    point = f"{service} shared.runtime.Runtime._commit bus.commit:before"
    return _fault(FaultKind.PAUSE_AT, at, service=service, point=point, seconds=5.0)


_LOST = _many(FaultKind.REDIS_OLDER, (9, 25, 40), after_s=0.15, seconds=1.5)
_POST = "notifier services.notifier.handlers.NotifierHandlers._deliver outlet.post:before"
_PUBLISHED = "gateway services.gateway.outbox.Outbox._publish_first bus.publish:after"

MUTATIONS = (
    Mutation(
        "an order leaves before it is journalled",
        *(Journal, "begin", _nothing),
        _dies(_JOURNAL, 8, 20, 32),
    ),
    Mutation(
        "an order without an answer is sent again",
        *(Answers, "_wait_for_answer", _resend),
        _many(FaultKind.SILENCE, range(1, 30, 4), after_s=0.006, seconds=3.5),
    ),
    Mutation(
        "an input is acknowledged before its outputs are written",
        *(Runtime, "_commit", _acknowledge_first),
        _dies(_ACKNOWLEDGED, 8, 9),
    ),
    Mutation("marks are not saved", *(MemoryServer, "commit", _commit_without_mark)),
    Mutation(
        "the lease is not looked at",
        *(MemoryServer, "holder", _holder_is_anybody),
        (_sleeps("features", 8), _sleeps("executor", 20), _sleeps("inference", 32)),
        ("features", "executor", "inference"),
    ),
    Mutation("a symbol is never unlocked", *(Request, "settled_at", property(lambda _: None))),
    Mutation(
        "a missing stop is not seen to",
        *(Protection, "start", lambda *_: None),
        _many(FaultKind.NO_PROTECTION, (1, 2, 3)),
    ),
    Mutation(
        "the venue's books are not asked",
        *(Reconcile, "now", _nothing),
        _many(FaultKind.CUT_ORDER, (3, 20), detail=Cut.AFTER),
    ),
    Mutation(
        "executions are written without their numbers",
        *(Outbox, "_publish_first", _publish_unnumbered),
        _many(FaultKind.REDIS_MUTE, range(3, 42), service="gateway", after_s=0.1),
    ),
    Mutation(
        "the gateway does not heed a stop",
        *(GatewayHandlers, "_obey", lambda *_: None),
        _many(FaultKind.PAUSE_AT, range(3, 40, 3), service="gateway", point=_PUBLISHED, seconds=1.2)
        + _many(FaultKind.COMMAND, range(3, 40, 3), after_s=0.8, detail=Command.PAUSE)
        + _many(FaultKind.COMMAND, range(4, 40, 3), detail=Command.RESUME),
    ),
    Mutation(
        "the executor does not heed a stop",
        *(Control, "allows_entries", property(lambda _: True)),
        (
            _fault(FaultKind.COMMAND, 10, detail=Command.PAUSE),
            _fault(FaultKind.COMMAND, 40, detail=Command.RESUME),
        ),
    ),
    Mutation("what Redis has lost is not written again", *(Outbox, "_write_again", _nothing), _LOST),
    Mutation("lost requests are not written again", *(Recovery, "_restore_requests", _no_requests), _LOST),
    Mutation(
        "what was missed is not caught up on",
        *(Feed, "_write", _without_writing),
        (_fault(FaultKind.VENUE_AWAY, seconds=6.0),),
    ),
    Mutation(
        "a restart forgets the state",
        *(Runtime, "_recover", _without_state),
        (_fault(FaultKind.DIE, service="features"),),
    ),
    Mutation(
        "unsent alerts are not saved",
        *(NotifierHandlers, "snapshot", _without_unsent),
        _dies(_POST, *range(2, 40, 4)),
    ),
)
