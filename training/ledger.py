"""A simulated account of one book: what it holds, its columns, its histories. One position a symbol."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from services.executor.sizing import Funds, Sized, size_position
from services.features.portfolio import Held, PortfolioView, fill_portfolio
from shared.contracts import POINTS_PER_UNIT
from shared.messages import TradeHistory
from training.trades import Market, Outcome
from venue.calendar import M5_MS

INITIAL_EQUITY = 10_000.0
LEVERAGE = 100.0
RESULTS_KEPT = 5
_NONE = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Open:
    """A position and, known to nobody but the simulation, how it will end."""

    direction: int
    units: float
    entry_row: int
    stop: int
    target: int
    margin: float
    outcome: Outcome


class Ledger:
    """Balance, positions and histories; equity is valued at the close's quotes."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._symbols = len(market.contracts)
        self.reset()

    def reset(self) -> None:
        """Become a fresh book."""
        self.balance = self.equity = self.peak = INITIAL_EQUITY
        self.open: dict[int, Open] = {}
        self._results = [[0.0] * RESULTS_KEPT for _ in range(self._symbols)]
        self._actions = [[_NONE] * RESULTS_KEPT for _ in range(self._symbols)]

    @property
    def drawdown(self) -> float:
        """1 - equity / peak equity."""
        return 1.0 - self.equity / self.peak

    def history(self, k: int) -> TradeHistory:
        """Return what the risk model sees of a symbol's past."""
        first, second, third, fourth, fifth = self._results[k]
        results = (first, second, third, fourth, fifth)
        return TradeHistory.model_construct(results=results, risk_actions=tuple(self._actions[k]))

    def advance(self, row: int) -> list[tuple[int, float]]:
        """Close what ended in or before a slice's bar, value the rest; return (symbol, net P&L)s."""
        closed = []
        for k, position in list(self.open.items()):
            if position.outcome.exit_row <= row:
                net = (position.outcome.gross - position.outcome.commission) * position.units
                self._results[k] = [*self._results[k][1:], net / self.equity]
                self.balance += net
                del self.open[k]
                closed.append((k, net))
        self.equity = self.balance + sum(self._unrealized(row, k) for k in self.open)
        self.peak = max(self.peak, self.equity)
        return closed

    def _unrealized(self, row: int, k: int) -> float:
        position, dataset = self.open[k], self._market.dataset
        price = int(dataset.points[row, k, 3]) + (
            int(dataset.spread[row, k]) if position.direction < 0 else 0
        )
        moved = position.direction * (price - position.outcome.entry_price) / POINTS_PER_UNIT
        paid = position.outcome.commission / 2  # the entry's side
        return position.units * (moved * float(self._market.conversion[row, k]) - paid)

    def enter(
        self, row: int, k: int, direction: int, stop: int, target: int, action: tuple[float, float, float]
    ) -> Open | str:
        """Open a position sized by the executor's own function, or return why there is none."""
        if k in self.open:
            return "ASSET_LOCKED"
        outcome = self._market.trade(row, k, direction, stop, target)
        if outcome is None:
            return "NO_QUOTE"
        used = sum(position.margin for position in self.open.values())
        price = outcome.entry_price / POINTS_PER_UNIT
        sized = size_position(
            self._market.contracts[k],
            Funds(
                equity=_money(self.equity),
                free_margin=_money(self.equity - used),
                leverage=Decimal(int(LEVERAGE)),
                used_notional=_money(used * LEVERAGE),
            ),
            price=_money(price),
            stop_distance=Decimal(stop) / POINTS_PER_UNIT,
            risk_fraction=_money(action[2]),
            conversion=_money(float(self._market.conversion[row, k])),
        )
        if not isinstance(sized, Sized):
            return sized.reason
        units = float(sized.volume_units)
        position = Open(direction, units, row + 1, stop, target, float(sized.margin), outcome)
        self.open[k] = position
        self._actions[k] = [*self._actions[k][1:], action]
        return position

    def fill(self, row: int, alpha: NDArray[np.float32], guard: NDArray[np.float32]) -> None:
        """Write the account's columns into one slice's rows, with the live function."""
        dataset = self._market.dataset
        fill_portfolio(
            alpha,
            guard,
            self.view(row),
            dataset.rows.close[row].tolist(),
            dataset.rows.atr[row].tolist(),
            self._market.tick_prices.tolist(),
        )

    def view(self, row: int) -> PortfolioView:
        """Return the account at a slice's close."""
        times = self._market.dataset.open_time_ms
        held = {}
        for k, position in sorted(self.open.items()):
            entry, direction = position.outcome.entry_price, position.direction
            held[k] = Held(
                direction=direction,
                used_margin=position.margin,
                unrealized_pnl=self._unrealized(row, k),
                age_bars=int(times[row] - times[position.entry_row]) // M5_MS,  # clock time, as live
                levels=(
                    entry / POINTS_PER_UNIT,
                    (entry - direction * position.stop) / POINTS_PER_UNIT,
                    (entry + direction * position.target) / POINTS_PER_UNIT,
                ),
            )
        return PortfolioView(
            held=held,
            equity=self.equity,
            initial_equity=INITIAL_EQUITY,
            peak_equity=self.peak,
            total_used_margin=sum(each.used_margin for each in held.values()),
            open_positions=len(self.open),
        )


def _money(value: float) -> Decimal:
    return Decimal(repr(value))
