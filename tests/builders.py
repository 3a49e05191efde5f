"""Small builders of valid messages; each argument is what a test cares about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from shared import messages as m
from shared.streams import market_id

MONDAY = datetime(2025, 1, 6, 10, 0, tzinfo=UTC)
SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "USDCHF", "XAUUSD")


def a_bar(symbol: str = "EURUSD", *, open_time: datetime = MONDAY, **changes: Any) -> m.BarClosed:
    close_time = open_time + timedelta(minutes=5)
    values: dict[str, Any] = {
        "meta": m.Meta.root(
            f"bar:{symbol}:{open_time.isoformat()}", close_time, f"slice:{close_time.isoformat()}"
        ),
        "symbol": symbol,
        "open_time": open_time,
        "open": Decimal("1.10000"),
        "high": Decimal("1.10020"),
        "low": Decimal("1.09990"),
        "close": Decimal("1.10010"),
        "tick_volume": 20,
        "origin": "live",
        "synthetic": False,
        "index": SYMBOLS.index(symbol),
        "slice_size": len(SYMBOLS),
        "account_id": market_id(close_time),
    }
    return m.BarClosed(**{**values, **changes})


def an_event(text: str = "hello", *, at: datetime = MONDAY) -> m.EventReported:
    return m.EventReported(meta=m.Meta.root(f"event:{text}", at), service="test", kind="alarm", text=text)
