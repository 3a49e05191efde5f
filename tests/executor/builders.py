"""Slices, accounts, executions and commands for the executor's tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from services.executor.handlers import ExecutorHandlers
from services.executor.policy import Policy
from services.executor.reservations import client_order_id
from shared import messages as m
from shared.contracts import Contract, contracts_hash
from shared.errors import UnavailableError
from shared.streams import market_id
from venue.book import BASE_SPREAD, CONTRACTS, SYMBOLS

D = Decimal
CLOSE = datetime(2025, 1, 6, 10, 5, tzinfo=UTC)
POLICY = Policy(book="main")
HASH = contracts_hash(CONTRACTS)
INPUTS = {"commands": "0-0", "executions": "0-0", "signals": "1-4"}
BID = {
    "EURUSD": D("1.10000"), "GBPUSD": D("1.27000"), "USDJPY": D("150.000"), "USDCHF": D("0.88000"),
    "XAUUSD": D("2900.00"),
}  # fmt: skip
STOP = {
    "EURUSD": D("0.00100"), "GBPUSD": D("0.00100"), "USDJPY": D("0.100"), "USDCHF": D("0.00100"),
    "XAUUSD": D("5.00"),
}  # fmt: skip


def an_id(symbol: str = "EURUSD", close: datetime = CLOSE) -> str:
    return client_order_id("main", close, symbol)


def a_signal(symbol: str = "EURUSD", *, close: datetime = CLOSE, **changes: Any) -> m.SignalEmitted:
    values: dict[str, Any] = {
        "meta": m.Meta.root(f"signal:{symbol}:{close.isoformat()}", close, f"slice:{close.isoformat()}"),
        "symbol": symbol,
        "index": SYMBOLS.index(symbol),
        "slice_size": len(SYMBOLS),
        "close_time": close,
        "live": True,
        "account_id": market_id(close),
        "bundle": "test",
        "direction": m.Direction.LONG,
        "verdict": m.Verdict.ALLOW,
        "reason": "ALLOWED",
        "alpha_action": 0.8,
        "alpha_threshold": 0.33,
        "sl_mult": 1.0,
        "tp_mult": 2.0,
        "risk_knob": 1.0,
        "risk_fraction": 0.005,
        "stop_distance": STOP[symbol],
        "target_distance": 2 * STOP[symbol],
        "guard_probability": 0.7,
        "guard_threshold": 0.5,
        "close": float(BID[symbol]),
        "atr": float(STOP[symbol]),
        "bid": BID[symbol],
        "ask": BID[symbol] + BASE_SPREAD[symbol],
        "synthetic": False,
        "real_bars": 100,
    }
    return m.SignalEmitted(**(values | changes))


def a_slice(*wanted: str, close: datetime = CLOSE, **changes: Any) -> list[m.SignalEmitted]:
    """Return five signals; only the wanted symbols are allowed, and only they take the changes."""
    flat = {"verdict": m.Verdict.FLAT, "direction": m.Direction.FLAT, "reason": "ALPHA_FLAT"}
    return [a_signal(symbol, close=close, **(changes if symbol in wanted else flat)) for symbol in SYMBOLS]


def a_quote(symbol: str = "EURUSD", **changes: Any) -> m.QuoteReported:
    conversion = D(1) if symbol.endswith("USD") else 1 / BID[symbol]
    values = {
        "bid": BID[symbol],
        "ask": BID[symbol] + BASE_SPREAD[symbol],
        "age_s": 0.4,
        "conversion": conversion,
    }
    return m.QuoteReported(**(values | changes))


def a_position(symbol: str = "EURUSD", *, number: int = 1, **changes: Any) -> m.PositionReported:
    values: dict[str, Any] = {
        "position_id": number,
        "symbol": symbol,
        "direction": m.Direction.LONG,
        "volume_units": D(10_000),
        "entry_price": BID.get(symbol, D(1)),
        "entry_time": CLOSE,
        "stop_loss_price": None,
        "take_profit_price": None,
        "used_margin": D(110),
        "unrealized_pnl": D(0),
        "client_order_id": None,
    }
    return m.PositionReported(**(values | changes))


def an_account(*, close: datetime = CLOSE, **changes: Any) -> m.AccountReported:
    values: dict[str, Any] = {
        "meta": m.Meta.root(f"account:{close.isoformat()}", close),
        "cause": "slice",
        "live": True,
        "currency": "USD",
        "balance": D(10_000),
        "equity": D(10_000),
        "used_margin": D(0),
        "free_margin": D(10_000),
        "initial_equity": D(10_000),
        "peak_equity": D(10_000),
        "leverage": D(100),
        "positions": (),
        "quotes": {symbol: a_quote(symbol) for symbol in SYMBOLS},
        "history": {},
        "execution_number": 0,
        "clock_offset_ms": 0.0,
        "contracts_hash": HASH,
    }
    return m.AccountReported(**(values | changes))


def an_execution(
    number: int, kind: str = "FILLED", *, symbol: str = "EURUSD", close: datetime = CLOSE, **changes: Any
) -> m.ExecutionReported:
    values: dict[str, Any] = {
        "meta": m.Meta.root(f"execution:{number}", close + timedelta(seconds=number)),
        "number": number,
        "kind": kind,
        "client_order_id": an_id(symbol, close),
        "symbol": symbol,
        "direction": m.Direction.LONG,
        "position_id": 100 + SYMBOLS.index(symbol) if kind in _WITH_POSITION else None,
    }
    return m.ExecutionReported(**(values | changes))


_WITH_POSITION = ("PARTIALLY_FILLED", "FILLED", "PROTECTED", "CLOSING", "CLOSED")


def a_command(command: str, *, number: int = 1) -> m.CommandGiven:
    meta = m.Meta.root(f"command:{command}:{number}", CLOSE + timedelta(seconds=number))
    return m.CommandGiven(meta=meta, command=command, who="ann", why="a test")


class FakeStreams:
    """Account entries and contracts as a bus would give them."""

    def __init__(self, *accounts: m.AccountReported) -> None:
        self.accounts = {market_id(each.meta.event_time): each for each in accounts or (an_account(),)}
        self.terms: dict[str, Contract] = dict(CONTRACTS)
        self.reads = 0

    async def account(self, entry_id: str) -> m.AccountReported:
        if entry_id not in self.accounts:
            raise UnavailableError(f"account entry {entry_id} is not there")
        return self.accounts[entry_id]

    async def contracts(self) -> dict[str, Contract]:
        self.reads += 1
        return self.terms

    def last_ids(self) -> dict[str, str]:
        return INPUTS


def an_executor(*accounts: m.AccountReported, policy: Policy = POLICY) -> ExecutorHandlers:
    return ExecutorHandlers(FakeStreams(*accounts), policy)


async def give(executor: ExecutorHandlers, signals: Sequence[m.SignalEmitted]) -> list[m.Message]:
    """Give a whole slice; all but the last signal are held."""
    for signal in signals[:-1]:
        assert await executor.on_signal(signal) is None
    decided = await executor.on_signal(signals[-1])
    assert decided is not None
    return decided


def restarted(
    executor: ExecutorHandlers, *accounts: m.AccountReported, policy: Policy = POLICY
) -> ExecutorHandlers:
    """Return a new executor with the state that the old one saved."""
    new = an_executor(*accounts, policy=policy)
    new.restore(executor.snapshot())
    return new


def reasons(messages: Sequence[m.Message]) -> dict[str, str]:
    """Return by symbol why an entry was refused, or REQUESTED."""
    return {
        each.symbol: each.reason if isinstance(each, m.EntryRefused) else "REQUESTED"
        for each in messages
        if isinstance(each, m.EntryRefused | m.OrderRequested)
    }
