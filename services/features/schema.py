"""The columns of the three observations: their names, order and scaling, and a hash over all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

ALPHA_PER_SYMBOL = 25
GUARD_PER_SYMBOL = 20
GUARD_MARKET = 15  # of those 20; the other five belong to the candidate trade

_RS = "robust over 50 rows, clipped to 5"
_NONE = "none"
_TICKS = "in ATR, clipped to 20"

ALPHA_COLUMNS = (
    ("close", _RS),
    ("return_1", _RS),
    ("return_12", _RS),
    ("atr_14", _RS),
    ("atr_ratio", _RS),
    ("bb_position", _NONE),
    ("ema_9", _RS),
    ("ema_21", _RS),
    ("price_vs_ema9", _NONE),
    ("ema9_vs_ema21", _NONE),
    ("rsi_14", _RS),
    ("macd_hist", _RS),
    ("volume_ratio", _RS),
    ("has_position", _NONE),
    ("position_size", _NONE),
    ("unrealized_pnl", _NONE),
    ("position_age", "in days"),
    ("entry_price", _TICKS),
    ("current_sl", _TICKS),
    ("current_tp", _TICKS),
    ("corr_basket", _NONE),
    ("rel_strength", _NONE),
    ("corr_xauusd", _NONE),
    ("corr_eurusd", _NONE),
    ("rank", _NONE),
)
ALPHA_GLOBALS = (
    ("equity", "of initial equity"),
    ("margin_usage", _NONE),
    ("drawdown", _NONE),
    ("num_open_positions", _NONE),
    ("risk_on_score", _RS),
    ("asset_dispersion", _RS),
    ("market_volatility", _RS),
    ("hour_sin", _NONE),
    ("hour_cos", _NONE),
    ("day_sin", _NONE),
    ("day_cos", _NONE),
    ("session_asian", _NONE),
    ("session_london", _NONE),
    ("session_ny", _NONE),
    ("session_overlap", _NONE),
)
RISK_COLUMNS = (
    ("candidate.equity", "of initial equity"),
    ("candidate.drawdown", _NONE),
    ("candidate.direction", _NONE),
    ("candidate.risk_cap_mult", _NONE),
    ("candidate.symbol_index", "k/4"),
    *((f"candidate.result_{k}", "of equity before") for k in range(1, 6)),
    *(
        (f"candidate.{name}_{k}", _NONE)
        for k in range(1, 6)
        for name in ("sl_mult", "tp_mult", "risk_fraction")
    ),
)
GUARD_COLUMNS = (
    ("rel_volume", "clip(x, 0, 5)/5"),
    ("vol_ratio", "clip((x-0.2)/2.8, 0, 1)"),
    ("directional_strength", "x/100"),
    ("efficiency", "clip(x, 0, 1)"),
    ("dist_ma200", "clip(x/0.2, -1, 1)"),
    ("bb_width", "clip(x/0.1, 0, 1)"),
    ("rsi", "(x-50)/50"),
    ("bb_position", "clip(x, 0, 1)"),
    ("macd_diff", "clip(x/ATRg, -3, 3)/3"),
    ("ema_align", "clip(x/0.05, -1, 1)"),
    ("body_ratio", "clip(x, 0, 1)"),
    ("upper_wick", "clip(x, 0, 5)/5"),
    ("lower_wick", "clip(x, 0, 5)/5"),
    ("velocity", "clip(x, -5, 5)/5"),
    ("range_pct", "clip(x/0.02, 0, 1)"),
    ("action", _NONE),
    ("signal_persistence", "clip(x/10, 0, 1)"),
    ("signal_reversal", _NONE),
    ("sl_size", "clip(x/2, 0, 1)"),
    ("rr", "clip(x/4, 0, 1)"),
)
GUARD_GLOBALS = (
    ("hour_sin", _NONE),
    ("hour_cos", _NONE),
    ("afternoon", _NONE),
    ("drawdown", "clip(x, 0, 1)"),
    ("exposure", "clip(x/5, 0, 1)"),
)


@dataclass(frozen=True)
class Schema:
    """The columns of one observation, in order. Two with the same tag mean the same numbers."""

    id: str  # kind, number of columns, version: `alpha-140/1`
    names: tuple[str, ...]
    scalings: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        """The hash over id, names in order and scalings."""
        lines = (self.id, *(f"{n}\t{s}" for n, s in zip(self.names, self.scalings, strict=True)))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def tag(self) -> str:
        """Id and hash, as messages and manifests carry it: `alpha-140/1:<sha256>`."""
        return f"{self.id}:{self.sha256}"


def _schema(kind: str, columns: Sequence[tuple[str, str]]) -> Schema:
    names, scalings = zip(*columns, strict=True)
    return Schema(f"{kind}-{len(names)}/1", names, scalings)


def _per_symbol(symbols: Sequence[str], columns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"{symbol}.{name}", scaling) for symbol in symbols for name, scaling in columns]


def alpha_schema(symbols: Sequence[str]) -> Schema:
    """Return the columns of the Alpha observation: 25 a symbol, then 15 global."""
    return _schema("alpha", [*_per_symbol(symbols, ALPHA_COLUMNS), *ALPHA_GLOBALS])


def risk_schema(symbols: Sequence[str]) -> Schema:
    """Return the columns of the Risk observation: the Alpha ones, then 25 of the candidate trade."""
    return _schema("risk", [*_per_symbol(symbols, ALPHA_COLUMNS), *ALPHA_GLOBALS, *RISK_COLUMNS])


def guard_schema(symbols: Sequence[str]) -> Schema:
    """Return the columns of the Guard observation: 20 a symbol, then 5 global."""
    return _schema("guard", [*_per_symbol(symbols, GUARD_COLUMNS), *GUARD_GLOBALS])
