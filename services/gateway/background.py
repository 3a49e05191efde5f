"""Work beside the pump: tasks that nobody waits for, but whose failure nobody overlooks, and alarms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from services.gateway.timing import Timing
from shared.bus import BusUnavailableError
from shared.errors import UnavailableError
from shared.log import get_logger
from shared.messages import EventKind, EventReported, Message, Meta, Severity

log = get_logger("gateway.background")

Work = Callable[[], Coroutine[Any, Any, None]]  # begun when its turn comes


class Background:
    """Runs what is handed to it, side by side, for as long as `run` runs."""

    def __init__(self, interrupted: Callable[[], None]) -> None:
        """Take what to do about a task that the end of the connection interrupts."""
        self._interrupted = interrupted
        self._waiting: asyncio.Queue[Work] = asyncio.Queue()

    def spawn(self, work: Work) -> None:
        """Have it done beside all else."""
        self._waiting.put_nowait(work)

    async def run(self) -> None:
        """Do what is spawned, until cancelled.

        Raises:
            What a task has failed with, in a group: a bug must not go unheard.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._guarded(await self._waiting.get()))

    async def _guarded(self, work: Work) -> None:
        try:
            await work()
        except UnavailableError as error:
            log.warning("background.interrupted", error=str(error))
            self._interrupted()


class EventWriter(Protocol):
    """What alarms need of the bus."""

    @property
    def book(self) -> str:
        """The book's name."""

    async def append(self, message: Message) -> str:
        """Write one message at any time."""


class Alarms:
    """Says what is wrong, in the log and on `events`."""

    def __init__(self, bus: EventWriter, timing: Timing, background: Background) -> None:
        self._bus = bus
        self._timing = timing
        self._background = background

    async def tell(self, text: str, severity: Severity, kind: EventKind = "alarm") -> None:
        """Say it; one that cannot be written is logged, not repeated."""
        say = log.info if severity is Severity.INFO else log.warning
        say(f"gateway.{kind}", text=text, severity=severity)
        now = self._timing.utc_now()
        meta = Meta.root(f"{self._bus.book}:gateway:{kind}:{text}:{now.isoformat()}", now)
        event = EventReported(meta=meta, service="gateway", kind=kind, severity=severity, text=text)
        try:
            await self._bus.append(event)
        except BusUnavailableError as error:
            log.warning("event.not_written", text=text, error=str(error))
        heed_cancellation()

    def tell_soon(self, text: str, severity: Severity) -> None:
        """Say it without waiting for the bus: a stop is more urgent than its alarm."""
        self._background.spawn(partial(self.tell, text, severity))


def heed_cancellation() -> None:
    """Raise a cancellation that was swallowed: Python 3.11's `wait_for`, used below us, may do that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
