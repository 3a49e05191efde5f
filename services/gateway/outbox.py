"""What is on its way to the streams: one queue, oldest first, behind which the journal stands.

Executions carry the journal's numbers and slices numbers of their own, and the bus writes only number
stored + 1: so nothing is lost or doubled on the way. A server that came back older than it was tells by its
numbers what it lost, and gets that again, in the order in which it was written first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.gateway.background import heed_cancellation
from services.gateway.journal import Journal, execution_key
from services.gateway.timing import Timing
from shared import streams
from shared.bus import BusUnavailableError, CounterError, Output
from shared.errors import InputError, UnavailableError
from shared.log import get_logger

log = get_logger("gateway.outbox")

PUBLISH_RETRY_S = 0.1
WRITTEN_MAX = 1000  # what was written last is kept: more than a server loses that saves every second
LOOK_BACK = 200  # executions
SLICES_KEY = f"{streams.BARS.name}:number"


class Publisher(Protocol):
    """What the outbox needs of the bus."""

    @property
    def book(self) -> str:
        """The book's name."""

    async def publish(
        self, outputs: Sequence[Output], *, counter: tuple[str, int] | None = None
    ) -> list[str]:
        """Write messages, all or none."""

    async def counter(self, name: str) -> int:
        """Return the number of the last message published under a counter."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """What is written to the streams together: an execution with its account, or slices with theirs."""

    outputs: list[Output]
    key: str  # of its counter
    number: int
    closed_s: float | None = None  # of a live slice: when its closing quote came


class Outbox:
    """The one writer of bars, account and executions; what happens does not wait for it."""

    def __init__(self, journal: Journal, bus: Publisher, timing: Timing) -> None:
        self._journal = journal
        self._bus = bus
        self._timing = timing
        self._pending: deque[_Pending] = deque()
        self._written: deque[_Pending] = deque(maxlen=WRITTEN_MAX)
        self._something = asyncio.Event()  # to publish
        self._published = 0  # number of the last execution that the streams have
        self._last_slices = 0  # number of the last slices that were put in
        self.last_number = 0  # of the executions that were put in
        self.on_loss: Callable[[int], None] = lambda stored: None  # told the last execution that was kept
        self.slice_times: dict[
            str, tuple[float, float]
        ] = {}  # account id -> closing quote came, bars written

    async def start(self) -> None:
        """Take up what was journalled and not published.

        Raises:
            InputError: the streams know executions that the journal does not: it is not this book's.
        """
        self.last_number = self._journal.last_number()
        self._last_slices = await self._bus.counter(SLICES_KEY)
        self._published = await self._bus.counter(execution_key())
        if self._published > self.last_number:
            raise InputError(
                f"GATEWAY_JOURNAL ends with execution {self.last_number}, the book {self._bus.book} has"
                f" {self._published}: it is not this book's journal, or an old copy"
            )
        self._put_again(self._from_journal(self._published, self.last_number))
        # the gateway before may have written its executions again and died before it came to the requests
        self.on_loss(max(0, self._published - LOOK_BACK))

    def put_execution(self, outputs: list[Output], number: int) -> None:
        """Have a journalled execution written, with the account that includes it."""
        self.last_number = number
        self._put(_Pending(outputs, execution_key(), number))

    def put_slices(self, outputs: list[Output], closed_s: float | None) -> None:
        """Have slices written, behind all that happened before them; the first output is their account."""
        self._last_slices += 1
        self._put(_Pending(outputs, SLICES_KEY, self._last_slices, closed_s))

    def _put(self, pending: _Pending) -> None:
        self._pending.append(pending)
        self._something.set()

    async def run(self) -> None:
        """Publish, oldest first, however long the server is away.

        Raises:
            UnavailableError: slices were lost that another gateway wrote: start again, and catch up on them.
        """
        while True:
            await self._something.wait()
            self._something.clear()
            while self._pending:
                await self._try(self._publish_first)
                heed_cancellation()

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except BusUnavailableError as error:
            log.warning("outbox.waiting", error=str(error))
            await self._timing.sleep(PUBLISH_RETRY_S)

    async def _publish_first(self) -> None:
        first = self._pending[0]
        try:
            await self._bus.publish(first.outputs, counter=(first.key, first.number))
        except CounterError as error:
            if error.stored < first.number:
                await self._write_again()
                return
        self._written.append(self._pending.popleft())
        if first.key == execution_key():
            self._published = first.number
        if first.closed_s is not None:
            self.slice_times = {first.outputs[0].entry_id: (first.closed_s, self._timing.monotonic_s())}
            await self._check_published()

    async def _check_published(self) -> None:
        """See at every slice that the server still has all executions that it once had."""
        try:
            stored = await self._bus.counter(execution_key())
        except BusUnavailableError:
            return
        if stored < self._published:
            await self._write_again()

    async def _write_again(self) -> None:
        """Put all that the server has lost before all else, as it was written the first time."""
        kept: dict[str, int] = {}
        for key in (execution_key(), SLICES_KEY):
            kept[key] = await self._bus.counter(key)
        lost = [each for each in self._written if each.number > kept[each.key]]
        slices = [each.number for each in (*lost, *self._pending) if each.key == SLICES_KEY]
        if min(slices, default=self._last_slices + 1) > kept[SLICES_KEY] + 1:
            raise UnavailableError("redis has lost slices that were written before this gateway began")
        executions = [each.number for each in (*lost, *self._pending) if each.key == execution_key()]
        first = min(executions, default=self.last_number + 1)
        log.warning("outbox.again", kept=kept, lost=len(lost))
        self._written = deque((each for each in self._written if each not in lost), WRITTEN_MAX)
        self._put_again([*self._from_journal(kept[execution_key()], first - 1), *lost])
        # a request that was written again stood behind its executions, and may be lost without them
        self.on_loss(max(0, kept[execution_key()] - LOOK_BACK))

    def _from_journal(self, after: int, last: int) -> list[_Pending]:
        events = [event for event in self._journal.events(after) if event.number <= last]
        return [_Pending([Output(event)], execution_key(), event.number) for event in events]

    def _put_again(self, lost: Sequence[_Pending]) -> None:
        self._pending.extendleft(reversed(lost))
        self._something.set()
