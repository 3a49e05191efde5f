"""Several accounts in one market: each plays the same quotes, and none runs ahead of the others for long."""

from __future__ import annotations

from collections.abc import Sequence

from venue.calendar import M5_MS
from venue.exchange import Exchange


async def play(exchanges: Sequence[Exchange], until_ms: int) -> None:
    """Let the time of every account run to a moment, a slice of the market after the other."""
    if len(exchanges) > 1:
        first_ms = exchanges[0].playback.time_ms // M5_MS * M5_MS + M5_MS
        for slice_ms in range(first_ms, until_ms, M5_MS):
            for exchange in exchanges:
                await exchange.play(slice_ms)
    for exchange in exchanges:
        await exchange.play(until_ms)
