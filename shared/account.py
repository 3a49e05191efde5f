"""The account: what it holds, what it is worth at the latest quotes, what the past trades gave.

One model feeds features, models, sizing and limits. Pure: facts go in, an `AccountReported` comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal
from typing import Literal, TypeVar

from shared import messages as m
from shared.contracts import Contract, contracts_hash
from shared.errors import InputError

HISTORY_LENGTH = 5  # closed results and risk actions that the risk model sees
_CENT = Decimal("0.01")
_RATE = Context(prec=12)  # digits that a conversion rate is written with
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Quote:
    """The latest prices of a symbol and the venue time of the last one, in ms."""

    bid: Decimal
    ask: Decimal
    time_ms: int


@dataclass(frozen=True, slots=True)
class Position:
    """One open position at the venue, ours or foreign."""

    position_id: int
    symbol: str
    direction: m.Direction
    volume_units: Decimal
    entry_price: Decimal
    entry_time: datetime
    stop_loss_price: Decimal | None
    take_profit_price: Decimal | None
    used_margin: Decimal
    costs: Decimal  # swap and commission so far, account currency, negative
    client_order_id: str | None


@dataclass
class AccountModel:
    """The account of one book. Money in the account's currency."""

    currency: str
    leverage: Decimal
    balance: Decimal
    initial_equity: Decimal
    peak_equity: Decimal
    contracts: Mapping[str, Contract]
    positions: dict[int, Position] = field(default_factory=dict)
    quotes: dict[str, Quote] = field(default_factory=dict)
    results: dict[str, list[float]] = field(default_factory=dict)
    risk_actions: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)
    _histories: dict[str, m.TradeHistory] = field(default_factory=dict)  # as long as nothing is added
    _hashed: tuple[Mapping[str, Contract], str] = ({}, "")  # the contracts that were hashed last

    def add_result(self, symbol: str, net_pnl: Decimal, equity_before: Decimal) -> None:
        """Remember a closed trade's net P&L as a fraction of the equity before it."""
        self._histories.pop(symbol, None)
        _push(self.results.setdefault(symbol, []), float(net_pnl / equity_before))

    def add_risk_action(self, symbol: str, sl_mult: float, tp_mult: float, risk_fraction: float) -> None:
        """Remember the decoded risk action of a trade that was filled."""
        self._histories.pop(symbol, None)
        _push(self.risk_actions.setdefault(symbol, []), (sl_mult, tp_mult, risk_fraction))

    def conversion(self, symbol: str) -> Decimal:
        """Return account currency for one unit of the symbol's quote currency, at the worse side.

        Raises:
            InputError: no symbol of the book converts that currency, or it has no quote yet.
        """
        asset = self.contracts[symbol].quote_asset
        if asset == self.currency:
            return Decimal(1)
        for name, contract in self.contracts.items():
            quote = self.quotes.get(name)
            if quote and (contract.base_asset, contract.quote_asset) == (self.currency, asset):
                return 1 / quote.ask
            if quote and (contract.base_asset, contract.quote_asset) == (asset, self.currency):
                return quote.bid
        raise InputError(
            f"{symbol}: no quoted symbol converts {asset} to {self.currency}; add one to SYMBOLS"
        )

    def unrealized_pnl(self, position: Position) -> Decimal:
        """Return a position's profit at the quotes it could be closed at, costs so far included."""
        quote = self.quotes.get(position.symbol)
        if quote is None or position.symbol not in self.contracts:
            return position.costs  # a foreign position in a symbol that is not in the book
        exit_price = quote.bid if position.direction is m.Direction.LONG else quote.ask
        gain = (exit_price - position.entry_price) * position.direction.sign * position.volume_units
        return (gain * self.conversion(position.symbol) + position.costs).quantize(_CENT)

    def used_margin(self) -> Decimal:
        """Return the margin that open positions bind."""
        return sum((p.used_margin for p in self.positions.values()), Decimal(0))

    def history(self, symbol: str) -> m.TradeHistory:
        """Return what the risk model sees of a symbol: oldest first, padded with zeros in front."""
        if symbol not in self._histories:
            self._histories[symbol] = self._history(symbol)
        return self._histories[symbol]

    def _history(self, symbol: str) -> m.TradeHistory:
        results = self.results.get(symbol, [])
        actions = self.risk_actions.get(symbol, [])
        padded = (*([0.0] * (HISTORY_LENGTH - len(results))), *results)
        return m.TradeHistory(
            results=(padded[0], padded[1], padded[2], padded[3], padded[4]),
            risk_actions=(*(((0.0, 0.0, 0.0),) * (HISTORY_LENGTH - len(actions))), *actions),
        )

    def report(
        self,
        meta: m.Meta,
        *,
        cause: Literal["start", "slice", "execution"],
        live: bool,
        now_ms: int,
        execution_number: int,
        clock_offset_ms: float,
    ) -> m.AccountReported:
        """Return the account as an entry of its stream; `now_ms` is venue time."""
        gains = {number: self.unrealized_pnl(position) for number, position in self.positions.items()}
        equity = self.balance + sum(gains.values(), Decimal(0))
        self.peak_equity = max(self.peak_equity, equity) if cause == "slice" else self.peak_equity
        used = self.used_margin()
        return m.AccountReported(
            meta=meta,
            cause=cause,
            live=live,
            currency=self.currency,
            balance=self.balance,
            equity=equity,
            used_margin=used,
            free_margin=equity - used,
            initial_equity=self.initial_equity,
            peak_equity=self.peak_equity,
            leverage=self.leverage,
            positions=tuple(
                _reported(position, gains[number]) for number, position in sorted(self.positions.items())
            ),
            quotes={
                symbol: m.QuoteReported(
                    bid=quote.bid,
                    ask=quote.ask,
                    age_s=max(0, now_ms - quote.time_ms) / 1000,
                    conversion=_RATE.plus(self.conversion(symbol)),
                )
                for symbol, quote in self.quotes.items()
            },
            history={symbol: self.history(symbol) for symbol in self.contracts},
            execution_number=execution_number,
            clock_offset_ms=clock_offset_ms,
            contracts_hash=self._contracts_hash(),
        )

    def _contracts_hash(self) -> str:
        """Return the hash of the contracts; they are seldom others than before."""
        hashed, digest = self._hashed
        if hashed != self.contracts or not digest:
            digest = contracts_hash(self.contracts)
        self._hashed = dict(self.contracts), digest  # the same objects are compared at once next time
        return digest


def _reported(position: Position, unrealized_pnl: Decimal) -> m.PositionReported:
    return m.PositionReported(
        position_id=position.position_id,
        symbol=position.symbol,
        direction=position.direction,
        volume_units=position.volume_units,
        entry_price=position.entry_price,
        entry_time=position.entry_time,
        stop_loss_price=position.stop_loss_price,
        take_profit_price=position.take_profit_price,
        used_margin=position.used_margin,
        unrealized_pnl=unrealized_pnl,
        client_order_id=position.client_order_id,
    )


def _push(kept: list[T], item: T) -> None:
    kept.append(item)
    del kept[:-HISTORY_LENGTH]
