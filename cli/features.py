"""`tradeguard features`: the columns of a history, as the live service computes them, for a flat account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from services.features.engine import FeatureEngine
from services.features.portfolio import fill_portfolio, flat_view
from services.gateway.slices import Bar, build_history
from venue.bar_files import load_bars
from venue.bars import BarStore
from venue.book import CONTRACTS, SYMBOLS

_END_MS = 2**53  # after every bar


def run(data: Path, out: Path, *, data_set: str | None = None) -> dict[str, Any]:
    """Write the columns of every slice to an npz file, and return what was written.

    Args:
        data: a CSV with time, symbol, open, high, low, close, volume, or a folder of one file a symbol.
        data_set: the name that quote paths are drawn from; the file's or folder's own if none is given.
        out: bar_open_time (n,), alpha (n, 140), guard_raw and guard (n, 105), symbols.

    Raises:
        InputError: the data are not as said; the message names file, row and field.
    """
    # as the venue plays it: where the source has no volume, it is that of the quote path
    store = BarStore(CONTRACTS, load_bars(data, CONTRACTS), data_set=data_set or data.resolve().stem)
    history = build_history({symbol: _bars(store, symbol) for symbol in SYMBOLS})
    rows = FeatureEngine(SYMBOLS).advance(history.open_time_ms, history.values, history.synthetic)
    view, ticks = flat_view(), [float(CONTRACTS[symbol].tick) for symbol in SYMBOLS]
    for alpha, guard, close, atr in zip(rows.alpha, rows.guard, rows.close, rows.atr, strict=True):
        fill_portfolio(alpha, guard, view, close, atr, ticks)
    np.savez(
        out,
        bar_open_time=history.open_time_ms.astype("datetime64[ms]").astype("datetime64[s]"),
        alpha=rows.alpha,
        guard_raw=rows.guard_raw,
        guard=rows.guard,
        symbols=np.array(SYMBOLS),
    )
    return {
        "out": str(out if out.suffix == ".npz" else out.with_name(out.name + ".npz")),
        "slices": len(history.open_time_ms),
        "synthetic_bars": int(history.synthetic.sum()),
        "symbols": list(SYMBOLS),
    }


def _bars(store: BarStore, symbol: str) -> list[Bar[int]]:
    return [Bar(symbol, *bar) for bar in store.bars(symbol, 0, _END_MS)]
