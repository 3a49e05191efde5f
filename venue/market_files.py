"""The market that a venue plays, written once into its own folder and mapped from there.

So a restart is quick and plays the same bars whatever became of their source, and the memory that
reading the source takes is gone with the process that read it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from shared.contracts import Contract
from shared.errors import InputError
from shared.settings import EXIT_BAD_INPUT, exit_with
from venue.bars import BarStore
from venue.book import CONTRACTS
from venue.market import BarSeries, synthetic_market

MARKET_NAME = "market"
IMPORT_TIMEOUT_S = 600
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PRICES = ("open", "high", "low", "close")


def open_synthetic(folder: Path, *, seed: int, start: datetime, slices: int) -> BarStore:
    """Return a random market, drawn now if `folder` has none."""
    data_set = f"synthetic-{seed}"
    if not _is_complete(folder):
        write_market(folder, synthetic_market(seed, start, slices=slices))
    return _open(folder, CONTRACTS, data_set)


def open_files(folder: Path, data_dir: Path) -> BarStore:
    """Return the market of `data_dir`, read now if `folder` has none.

    Raises:
        InputError: the files cannot be read as bars.
    """
    if not _is_complete(folder):
        _read_apart(folder, data_dir)
    return _open(folder, CONTRACTS, data_dir.resolve().stem)


def write_market(folder: Path, series: Mapping[str, BarSeries]) -> None:
    """Write every symbol's bars; the folder counts as complete when the last one stands."""
    target = folder / MARKET_NAME
    target.mkdir(parents=True, exist_ok=True)
    for symbol, bars in series.items():
        columns = [bars.open_time_ms, *(getattr(bars, name) for name in _PRICES)]
        if bars.volume is not None:
            columns.append(bars.volume)
        draft = target / f"{symbol}.new.npy"
        np.save(draft, np.stack(columns).astype(np.int64))
        draft.replace(target / f"{symbol}.npy")


def _is_complete(folder: Path) -> bool:
    return all((folder / MARKET_NAME / f"{symbol}.npy").exists() for symbol in CONTRACTS)


def _open(folder: Path, contracts: Mapping[str, Contract], data_set: str) -> BarStore:
    series = {}
    for symbol in contracts:
        columns = np.load(folder / MARKET_NAME / f"{symbol}.npy", mmap_mode="r")
        volume = columns[5] if len(columns) > 5 else None
        opens, open_, high, low, close = columns[:5]
        series[symbol] = BarSeries(symbol, opens, open_, high, low, close, volume)
    return BarStore(contracts, series, data_set=data_set)


def _read_apart(folder: Path, data_dir: Path) -> None:
    """Read the files in a process of their own, so that the libraries for it are not kept."""
    command = [sys.executable, "-m", "venue.market_files", str(folder), str(data_dir)]
    done = subprocess.run(  # noqa: S603 - this module, with paths as plain arguments
        command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise InputError(said[-1] if said else f"{data_dir}: reading it ended with {done.returncode}")


def start_ms(store: BarStore, start: datetime | None, history_slices: int) -> int:
    """Return the open of the slice at which a venue's time begins.

    Raises:
        InputError: there is no bar from then on.
    """
    if start is None:
        return store.slice_open(min(history_slices, store.slices - 1))
    found = store.next_open((start - _EPOCH) // timedelta(milliseconds=1))
    if found is None:
        raise InputError(f"start {start.isoformat()}: the market ends before that")
    return found


def main(folder: Path, data_dir: Path) -> None:
    """Read bars from files and write them as a market."""
    from venue.bar_files import load_bars  # what it imports should not stay in the venue's process

    try:
        series = {
            symbol: load_bars(data_dir, {symbol: contract})[symbol] for symbol, contract in CONTRACTS.items()
        }
        write_market(folder, series)
    except InputError as error:
        exit_with(error)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(EXIT_BAD_INPUT)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
