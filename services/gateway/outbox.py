"""What is on its way to the streams: one queue, oldest first, behind which the journal stands.

Executions carry the journal's numbers, and the bus writes only number stored + 1: so nothing is lost or
doubled between journal and streams, and a server that came back older than it was gets all it lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.gateway.background import heed_cancellation
from services.gateway.journal import Journal, execution_key
from services.gateway.timing import Timing
from shared.bus import BusUnavailableError, CounterError, Output
from shared.errors import InputError
from shared.log import get_logger

log = get_logger("gateway.outbox")

PUBLISH_RETRY_S = 0.1


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
    number: int | None = None  # of the execution
    closed_s: float | None = None  # of a live slice: when its closing quote came


class Outbox:
    """The one writer of bars, account and executions; what happens does not wait for it."""

    def __init__(self, journal: Journal, bus: Publisher, timing: Timing) -> None:
        self._journal = journal
        self._bus = bus
        self._timing = timing
        self._pending: deque[_Pending] = deque()
        self._something = asyncio.Event()  # to publish
        self._published = 0  # number of the last execution that the streams have
        self.last_number = 0  # of the executions that were put in
        self.slice_times: dict[
            str, tuple[float, float]
        ] = {}  # account id -> closing quote came, bars written

    async def start(self) -> None:
        """Take up what was journalled and not published.

        Raises:
            InputError: the streams know executions that the journal does not: it is not this book's.
        """
        self.last_number = self._journal.last_number()
        self._published = await self._bus.counter(execution_key())
        if self._published > self.last_number:
            raise InputError(
                f"GATEWAY_JOURNAL ends with execution {self.last_number}, the book {self._bus.book} has"
                f" {self._published}: it is not this book's journal, or an old copy"
            )
        self._publish_again(self._published, self.last_number)

    def put_execution(self, outputs: list[Output], number: int) -> None:
        """Have a journalled execution written, with the account that includes it."""
        self.last_number = number
        self._put(_Pending(outputs, number))

    def put_slices(self, outputs: list[Output], closed_s: float | None) -> None:
        """Have slices written, behind all that happened before them; the first output is their account."""
        self._put(_Pending(outputs, closed_s=closed_s))

    def _put(self, pending: _Pending) -> None:
        self._pending.append(pending)
        self._something.set()

    async def run(self) -> None:
        """Publish, oldest first, however long the server is away."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._pending:
                await self._publish(self._pending[0])
                heed_cancellation()

    async def _publish(self, first: _Pending) -> None:
        try:
            if first.number is not None:
                await self._bus.publish(first.outputs, counter=(execution_key(), first.number))
            else:
                await self._bus.publish(first.outputs)
        except CounterError as error:
            if first.number is not None and error.stored < first.number:
                self._publish_again(error.stored, first.number - 1)
                return
        except BusUnavailableError as error:
            log.warning("outbox.waiting", number=first.number, error=str(error))
            await self._timing.sleep(PUBLISH_RETRY_S)
            return
        self._pending.popleft()
        self._published = first.number or self._published
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
            self._publish_again(stored, self._published)

    def _publish_again(self, after: int, last: int) -> None:
        """Put the executions above a number, up to another, before all else."""
        lost = [event for event in self._journal.events(after) if event.number <= last]
        if lost:
            log.warning("outbox.again", first=lost[0].number, last=last)
        self._pending.extendleft(_Pending([Output(event)], event.number) for event in reversed(lost))
        self._something.set()
