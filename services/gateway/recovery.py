"""What only the gateway still knows after Redis came back older than it was: orders under way, the last stop.

A lost order request has its full text in the journal, because it is journalled before its first byte leaves.
Its loss takes the executor's mark with it, so the executor reads the slice again. It decides it as before,
and so writes the request again itself. Or it has read the order's executions by then, and never decides a
known id anew; or it refuses it, because a command or some of the executions are there again and others are
not. Then, and not before, the request is written again from here: what was done stands in the streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.gateway.background import heed_cancellation
from services.gateway.journal import Journal
from services.gateway.timing import Timing
from shared import streams
from shared.bus import BusUnavailableError, Output
from shared.log import get_logger
from shared.messages import CommandGiven, Message, OrderRequested
from shared.streams import Stream, id_parts, milliseconds

log = get_logger("gateway.recovery")

LOOK_S = 0.2
LOOK_BACK_MS = 86_400_000  # a request of longer ago was looked for often enough, or may be trimmed by now


class BookReader(Protocol):
    """What it needs of the bus."""

    async def history(
        self, stream: Stream, start: str = "-", end: str = "+", count: int | None = None
    ) -> list[tuple[str, Message]]:
        """Return (entry id, message) of a range, oldest first."""

    async def mark(self, service: str, stream: Stream) -> str:
        """Return the last entry that a service has committed."""

    async def publish(self, outputs: Sequence[Output]) -> list[str]:
        """Write messages, all or none."""

    async def append(self, message: Message) -> str:
        """Write one message at any time."""


class Recovery:
    """Writes again what Redis has lost of orders and commands."""

    def __init__(self, journal: Journal, bus: BookReader, timing: Timing) -> None:
        self._journal = journal
        self._bus = bus
        self._timing = timing
        self._asked = asyncio.Event()
        self._kept = 0

    def ask(self, kept: int) -> None:
        """Have it looked which requests are missing of which nothing had happened up to execution `kept`."""
        self._kept = kept if not self._asked.is_set() else min(kept, self._kept)
        self._asked.set()

    async def run(self) -> None:
        """Look whenever it is asked for."""
        while True:
            await self._asked.wait()
            kept = self._kept
            self._asked.clear()
            missing = {r.client_order_id: r for r in self._journal.requests_since(kept)}
            is_command_there = False
            while missing or not is_command_there:
                try:
                    is_command_there = is_command_there or await self._restore_command()
                    missing = await self._restore_requests(missing)
                except BusUnavailableError as error:
                    log.warning("recovery.waiting", error=str(error))
                heed_cancellation()
                if missing or not is_command_there:
                    await self._timing.sleep(LOOK_S)

    async def _restore_command(self) -> bool:
        """Write the last command again if it is not there; True when it is."""
        text = self._journal.fact("command")
        if text is None:
            return True
        command = CommandGiven.model_validate_json(text)
        given = await self._bus.history(streams.COMMANDS)
        if all(message.meta.message_id != command.meta.message_id for _, message in given):
            log.warning("recovery.command", command=command.command)
            await self._bus.append(command)
        return True

    async def _restore_requests(self, missing: Mapping[str, OrderRequested]) -> dict[str, OrderRequested]:
        """Write again what the executor has passed over or refused; return what it has yet to come to."""
        if not missing:
            return {}
        decided_ms, _ = id_parts(await self._bus.mark("executor", streams.SIGNALS) or "0-0")
        there = {
            message.client_order_id
            for _, message in await self._bus.history(streams.ORDERS)
            if isinstance(message, OrderRequested)
        }
        later: dict[str, OrderRequested] = {}
        for label, request in missing.items():
            close_ms = milliseconds(request.meta.event_time)
            if label in there or close_ms < decided_ms - LOOK_BACK_MS:
                continue
            if close_ms > decided_ms:
                later[label] = request
            else:
                log.warning("recovery.request", order=label)
                await self._bus.publish([Output(request)])
        return later
