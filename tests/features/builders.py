"""Valid accounts, positions and slices; each argument is what a test cares about."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from shared import messages as m
from shared.contracts import contracts_hash
from shared.streams import from_milliseconds, market_id
from tests.builders import MONDAY, a_bar
from tests.features.conftest import SYMBOLS, Slices
from venue.book import CONTRACTS


def a_position(symbol: str = "EURUSD", **changes: Any) -> m.PositionReported:
    values: dict[str, Any] = {
        "position_id": 1,
        "symbol": symbol,
        "direction": m.Direction.LONG,
        "volume_units": Decimal(1000),
        "entry_price": Decimal("1.10000"),
        "entry_time": MONDAY - timedelta(hours=1),
        "stop_loss_price": Decimal("1.09900"),
        "take_profit_price": Decimal("1.10200"),
        "used_margin": Decimal(100),
        "unrealized_pnl": Decimal(5),
        "client_order_id": "TG-main-20250106T0900-EURUSD",
    }
    return m.PositionReported(**{**values, **changes})


def an_account(**changes: Any) -> m.AccountReported:
    values: dict[str, Any] = {
        "meta": m.Meta.root("account", MONDAY),
        "cause": "slice",
        "live": True,
        "currency": "USD",
        "balance": Decimal(10_000),
        "equity": Decimal(10_000),
        "used_margin": Decimal(0),
        "free_margin": Decimal(10_000),
        "initial_equity": Decimal(10_000),
        "peak_equity": Decimal(10_000),
        "leverage": Decimal(100),
        "positions": (),
        "quotes": {symbol: a_quote() for symbol in SYMBOLS},
        "history": {},
        "execution_number": 0,
        "clock_offset_ms": 0.0,
        "contracts_hash": contracts_hash(CONTRACTS),
    }
    return m.AccountReported(**{**values, **changes})


def a_quote() -> m.QuoteReported:
    return m.QuoteReported(bid=Decimal("1.10000"), ask=Decimal("1.10008"), age_s=0.1, conversion=Decimal(1))


def bars_of_slice(market: Slices, row: int, **changes: Any) -> list[m.BarClosed]:
    """Return one slice as the messages that carry it."""
    open_time = from_milliseconds(int(market.times[row]))
    bars = []
    for k, symbol in enumerate(SYMBOLS):
        open_, high, low, close, volume = (Decimal(repr(value)) for value in market.bars[row, k].tolist())
        values = {"open": open_, "high": high, "low": low, "close": close, "tick_volume": int(volume)}
        values |= {"synthetic": bool(market.synthetic[row, k]), "account_id": market_id(open_time)}
        bars.append(a_bar(symbol, open_time=open_time, **{**values, **changes}))
    return bars
