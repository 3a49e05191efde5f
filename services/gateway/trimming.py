"""Keeps the streams from growing for ever: what is old, and read by all who act on it, is taken out."""

from __future__ import annotations

from typing import Protocol

from services.gateway.timing import Timing
from shared.bus import BusUnavailableError
from shared.log import get_logger

log = get_logger("gateway.trimming")

TRIM_EVERY_S = 3600.0
DAY_MS = 86_400_000


class Trimmable(Protocol):
    """What it needs of the bus."""

    async def trim(self, keep_ms: int) -> int:
        """Take out old entries that no service has yet to read; return how many."""


class Trimming:
    """The one who trims: at its start, then once an hour."""

    def __init__(self, bus: Trimmable, timing: Timing, keep_days: int) -> None:
        self._bus = bus
        self._timing = timing
        self._keep_ms = keep_days * DAY_MS

    async def run(self) -> None:
        """Trim again and again; a server that is away is asked the next time."""
        while True:
            try:
                gone = await self._bus.trim(self._keep_ms)
            except BusUnavailableError as error:
                log.warning("streams.not_trimmed", error=str(error))
            else:
                log.info("streams.trimmed", entries=gone)
            await self._timing.sleep(TRIM_EVERY_S)
