"""One slice through Alpha, Risk and TradeGuard, for every bundle in `bundles/`: five symbols, five signals.

Market columns come from a random walk, so that the models see changing inputs; the bundle's own directions
decide how many symbols go through all three models, and that share is shown.
"""

from __future__ import annotations

import asyncio
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.common import figures, show
from bench.features import WARM_UP, market
from services.features.engine import FeatureEngine, MarketRows
from services.features.portfolio import fill_portfolio, flat_view
from services.inference.adapters import load_bundle
from services.inference.handlers import InferenceHandlers
from shared.messages import (
    BAR_LENGTH,
    FeaturesComputed,
    Meta,
    SignalEmitted,
    SymbolRow,
    TradeHistory,
    Verdict,
)
from shared.settings import DEFAULT_SYMBOLS
from shared.streams import from_milliseconds, market_id

SLICES = 1_000
BUNDLES = Path(__file__).parents[1] / "bundles"
TICKS = tuple(Decimal(text) for text in ("0.00001", "0.00001", "0.001", "0.00001", "0.01"))


def messages(engine: FeatureEngine, rows: MarketRows) -> list[FeaturesComputed]:
    """Return each row as the message that inference reads, for a flat account."""
    view, ticks = flat_view(), [float(tick) for tick in TICKS]
    for alpha, guard, close, atr in zip(rows.alpha, rows.guard, rows.close, rows.atr, strict=True):
        fill_portfolio(alpha, guard, view, close, atr, ticks)
    return [_message(engine, rows, row) for row in range(len(rows.open_time_ms))]


def _message(engine: FeatureEngine, rows: MarketRows, row: int) -> FeaturesComputed:
    close_time = from_milliseconds(int(rows.open_time_ms[row])) + BAR_LENGTH
    return FeaturesComputed(
        meta=Meta.root(f"bench:{row}", close_time),
        close_time=close_time,
        live=True,
        account_id=market_id(close_time),
        slices_seen=int(rows.slices_seen[row]),
        alpha_schema=engine.alpha_schema.tag,
        alpha=tuple(rows.alpha[row].tolist()),
        guard_schema=engine.guard_schema.tag,
        guard=tuple(rows.guard[row].tolist()),
        rows=tuple(_row(engine.symbols[k], rows, row, k) for k in range(len(engine.symbols))),
    )


def _row(symbol: str, rows: MarketRows, row: int, k: int) -> SymbolRow:
    bid = Decimal(repr(float(rows.close[row, k]))).quantize(TICKS[k])
    return SymbolRow(
        symbol=symbol,
        close=float(rows.close[row, k]),
        atr=float(rows.atr[row, k]),
        atr_guard=float(rows.atr_guard[row, k]),
        synthetic=False,
        real_bars=int(rows.real_bars[row, k]),
        bid=bid,
        ask=bid + 8 * TICKS[k],
        tick=TICKS[k],
        min_stop_distance=Decimal(0),
        history=TradeHistory(),
    )


async def judge(folder: Path, slices: list[FeaturesComputed]) -> tuple[list[float], float]:
    """Return the seconds each slice took, and the share of signals that an entry was wanted for."""
    handlers = InferenceHandlers(load_bundle(folder))
    took, wanted, signals = [], 0, 0
    for features in slices:
        began_s = time.perf_counter()
        out = await handlers.on_features(features)
        took.append(time.perf_counter() - began_s)
        emitted = [message for message in out if isinstance(message, SignalEmitted)]
        signals += len(emitted)
        wanted += sum(signal.verdict is not Verdict.FLAT for signal in emitted)
    return took, wanted / max(1, signals)


def main() -> None:
    """Measure and print."""
    folders = sorted(path.parent for path in BUNDLES.glob("*/manifest.json"))
    if not folders:
        sys.stderr.write("bench inference: no bundle in bundles/: make one with `tradeguard train`\n")
        return
    results: dict[str, Any] = {}
    for folder in folders:
        began_s = time.perf_counter()
        bundle = load_bundle(folder)
        loaded_s = time.perf_counter() - began_s
        if bundle.manifest.symbols != DEFAULT_SYMBOLS:
            results[folder.name] = "left out: made for other symbols than the random market's"
            continue
        engine = FeatureEngine(DEFAULT_SYMBOLS)
        times, bars, synthetic = market(WARM_UP + SLICES)
        rows = engine.advance(times, bars, synthetic)
        took, share = asyncio.run(judge(folder, messages(engine, rows)[WARM_UP:]))
        results[f"{folder.name}: one slice, 5 symbols"] = figures(took)
        results[f"{folder.name}: entries wanted"] = f"{share:.0%} of signals"
        results[f"{folder.name}: load and check"] = f"{loaded_s * 1e3:.0f} ms"
    show("inference", results)


if __name__ == "__main__":
    main()
