"""The numbers under which the venue knows symbols and assets, and what it says of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date

from shared.contracts import Contract
from venue.calendar import BREAK_END_HOUR, DAILY_BREAK_SYMBOLS, HOLIDAYS, ROLL_HOUR, trading_day

FIRST_SYMBOL_ID = 1_101
FIRST_LIVE_SYMBOL_ID = 10_001_102
SYMBOL_ID_STEP = 7
FIRST_ASSET_ID = 31
FIRST_LEVERAGE_ID = 51
FOREX_CATEGORY_ID = 1
METALS_CATEGORY_ID = 2

_HOUR_S = 3_600
_DAY_S = 24 * _HOUR_S
SCHEDULE_TIME_ZONE = "America/New_York"


class Directory:
    """Symbols and assets by number and by name."""

    def __init__(self, contracts: Mapping[str, Contract], first_symbol_id: int = FIRST_SYMBOL_ID) -> None:
        """Number the symbols of an environment; the other one has other numbers."""
        self.contracts = contracts
        self._next_symbol_id = first_symbol_id
        self.renumber()
        self.leverages = {FIRST_LEVERAGE_ID + rank: symbol for rank, symbol in enumerate(contracts)}
        names = [name for each in contracts.values() for name in (each.base_asset, each.quote_asset)]
        self.asset_ids = {name: FIRST_ASSET_ID + rank for rank, name in enumerate(dict.fromkeys(names))}
        self.assets = {number: name for name, number in self.asset_ids.items()}

    def leverage_id(self, symbol: str) -> int:
        """Return the number under which a symbol's leverage can be asked for."""
        return next(number for number, name in self.leverages.items() if name == symbol)

    def renumber(self) -> None:
        """Give every symbol an id that none had before."""
        first = self._next_symbol_id
        self.symbol_ids = {
            symbol: first + SYMBOL_ID_STEP * rank for rank, symbol in enumerate(self.contracts)
        }
        self.symbols = {number: symbol for symbol, number in self.symbol_ids.items()}
        self._next_symbol_id += SYMBOL_ID_STEP * len(self.contracts)


def schedule(symbol: str) -> Iterable[tuple[int, int]]:
    """Return when a symbol trades, as seconds from Sunday 00:00 New York."""
    opening = BREAK_END_HOUR if symbol in DAILY_BREAK_SYMBOLS else ROLL_HOUR
    if opening == ROLL_HOUR:
        return [(opening * _HOUR_S, 5 * _DAY_S + ROLL_HOUR * _HOUR_S)]
    return [(day * _DAY_S + opening * _HOUR_S, (day + 1) * _DAY_S + ROLL_HOUR * _HOUR_S) for day in range(5)]


def holidays(now_ms: int) -> Iterable[tuple[str, int, int, int]]:
    """Return this year's holidays: name, day since 1970, from and to which second of it, New York.

    A trading day begins at 17:00 of the day before, so each holiday is a part of two days.
    """
    year = trading_day(now_ms).year
    for (month, day), name in HOLIDAYS.items():
        number = (date(year, month, day) - date(1970, 1, 1)).days
        yield name, number - 1, ROLL_HOUR * _HOUR_S, _DAY_S
        yield name, number, 0, ROLL_HOUR * _HOUR_S
