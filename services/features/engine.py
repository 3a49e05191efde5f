"""The market columns of slices: fed one slice or a whole history, the same code gives the same bits."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from services.features import indicators as ind
from services.features.columns import alpha_columns, guard_columns
from services.features.indicators import Array, Bools, Ints
from services.features.schema import Schema, alpha_schema, guard_schema
from services.features.series import NO_FLAT_RUN, REACH, Block, State, empty_state, parts_of
from shared.errors import InputError

Floats32 = NDArray[np.float32]

BLOCK_ROWS = 256  # rows computed at once: their windows fit the processor's cache
STATE_VERSION = 1
_MAGIC = b"TGFE"
_HEADER = struct.Struct("<4sI32s32s")  # magic, version, hash of the alpha and of the guard columns


@dataclass(frozen=True, slots=True)
class MarketRows:
    """What is known of the market at the close of each slice, oldest first."""

    open_time_ms: Ints  # (m,)
    alpha: Floats32  # (m, 140); portfolio columns are zero
    guard_raw: Floats32  # (m, 105), before the squeeze
    guard: Floats32  # (m, 105), squeezed; columns of account and candidate are zero
    close: Array  # (m, symbols)
    atr: Array  # (m, symbols): Wilder, 14 bars, price units
    atr_guard: Array  # (m, symbols): simple mean of 14 true ranges, price units
    real_bars: Ints  # (m, symbols): since the last run of 3 or more synthetic bars
    slices_seen: Ints  # (m,): the history's length, this slice included


class FeatureEngine:
    """Turns slices into rows of features, and carries what the next slice needs."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        missing = {"EURUSD", "GBPUSD", "XAUUSD"} - set(self.symbols)
        if missing or len(set(self.symbols)) != len(self.symbols):
            raise InputError(
                f"symbols {self.symbols}: each once, and {', '.join(sorted(missing))} is missing"
            )
        self.alpha_schema: Schema = alpha_schema(self.symbols)
        self.guard_schema: Schema = guard_schema(self.symbols)
        hashes = (bytes.fromhex(schema.sha256) for schema in (self.alpha_schema, self.guard_schema))
        self._header = _HEADER.pack(_MAGIC, STATE_VERSION, *hashes)
        self._state = empty_state(len(self.symbols), len(self.alpha_schema.names))

    @property
    def slices_seen(self) -> int:
        """How many slices the history has so far."""
        return int(self._state.slices_seen[0])

    def advance(self, open_time_ms: Ints, bars: Array, synthetic: Bools) -> MarketRows:
        """Take the next slices and return a row for each. On an error the engine stays as it was.

        Args:
            open_time_ms: open times, shape (m,), each later than the one before.
            bars: open, high, low, close in price units, and volume; shape (m, symbols, 5).
            synthetic: which bars are synthetic, shape (m, symbols).

        Raises:
            InputError: shapes, times or prices are wrong, or a column came out infinite.
        """
        self._check(open_time_ms, bars, synthetic)
        state = self._state
        rows = self._empty_rows(open_time_ms, bars)
        for start in range(0, len(bars), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                part = rows if len(bars) <= BLOCK_ROWS else _view(rows, block)
                state = self._step(state, part, bars[block], synthetic[block])
        self._state = state
        return rows

    def snapshot(self) -> bytes:
        """Return the state, to be restored by an engine of the same columns."""
        parts = (part.astype("<f8", copy=False).tobytes() for part in parts_of(self._state))
        return self._header + b"".join(parts)

    def restore(self, snapshot: bytes | None) -> None:
        """Go on from a snapshot; None begins a new history.

        Raises:
            InputError: it is of another version, of other columns, or cut short.
        """
        empty = empty_state(len(self.symbols), len(self.alpha_schema.names))
        if snapshot is None:
            self._state = empty
            return
        parts = parts_of(empty)
        size = _HEADER.size + 8 * sum(part.size for part in parts)
        if snapshot[: _HEADER.size] != self._header or len(snapshot) != size:
            raise InputError(
                f"feature state of {len(snapshot)} bytes is not of version {STATE_VERSION}, {size} bytes and "
                f"{self.alpha_schema.tag}: start from history instead"
            )
        values = np.frombuffer(snapshot, "<f8", offset=_HEADER.size).astype(np.float64)
        splits = np.split(values, np.cumsum([part.size for part in parts])[:-1])
        self._state = State(*(s.reshape(p.shape) for s, p in zip(splits, parts, strict=True)))

    def _check(self, open_time_ms: Ints, bars: Array, synthetic: Bools) -> None:
        rows, symbols = len(open_time_ms), len(self.symbols)
        if bars.shape != (rows, symbols, 5) or synthetic.shape != (rows, symbols) or not rows:
            raise InputError(f"slices: {rows} times, bars {bars.shape}, synthetic {synthetic.shape}")
        before = np.concatenate([self._state.last_time_ms, open_time_ms[:-1]])
        if (open_time_ms <= before).any():
            late = int(np.argmax(open_time_ms <= before))
            raise InputError(f"slice of {_text(open_time_ms[late])} does not come after the one before")
        open_, high, low, close, volume = bars.transpose(2, 0, 1)
        sound = (low > 0) & (low <= np.minimum(open_, close)) & (high >= np.maximum(open_, close))
        sound &= (volume >= 0) & (high < np.inf) & (volume < np.inf)
        if not sound.all():
            row, k = np.argwhere(~sound)[0]
            raise InputError(
                f"{self.symbols[k]}'s bar of {_text(open_time_ms[row])} is no bar: {bars[row, k]}"
            )

    def _empty_rows(self, open_time_ms: Ints, bars: Array) -> MarketRows:
        rows, symbols = bars.shape[:2]
        guard_shape = (rows, len(self.guard_schema.names))
        return MarketRows(
            open_time_ms=open_time_ms.astype(np.int64),
            alpha=np.zeros((rows, len(self.alpha_schema.names)), np.float32),
            guard_raw=np.zeros(guard_shape, np.float32),
            guard=np.zeros(guard_shape, np.float32),
            close=bars[:, :, 3].copy(),
            atr=np.empty((rows, symbols)),
            atr_guard=np.empty((rows, symbols)),
            real_bars=np.empty((rows, symbols), np.int64),
            slices_seen=self.slices_seen + np.arange(1, rows + 1),
        )

    def _step(self, state: State, rows: MarketRows, bars: Array, synthetic: Bools) -> State:
        """Fill one block of rows, and return the state after it."""
        b = Block(state, bars)
        alpha, unscaled = alpha_columns(b, self.symbols, rows.open_time_ms)
        filled = ind.forward_fill(alpha, state.filled)
        raw, squeezed = guard_columns(b, self.symbols, rows.open_time_ms)
        rows.alpha[:], rows.guard_raw[:], rows.guard[:] = filled, raw, squeezed
        _refuse_infinite(rows.alpha, self.alpha_schema, rows.open_time_ms)
        _refuse_infinite(rows.guard_raw, self.guard_schema, rows.open_time_ms)
        rows.atr[:], rows.atr_guard[:] = b.atr, b.atr_guard[-b.rows :]
        run, real = (counts.astype(np.int64) for counts in (state.flat_run, state.real_bars))
        rows.real_bars[:], run = ind.bars_since_flat_run(synthetic, run, real, cap=NO_FLAT_RUN)
        return State(
            high=b.high[-REACH["moves"] :].copy(),
            low=b.low[-REACH["moves"] :].copy(),
            close=b.close[-REACH["close"] :].copy(),
            volume=b.volume[-REACH["volume"] :].copy(),
            atr=b.atrs[-REACH["atr"] :].copy(),
            atr_guard=b.atr_guard[-REACH["atr_guard"] :].copy(),
            unscaled=unscaled[-REACH["unscaled"] :].copy(),
            smoothed=b.smoothed[-1].copy(),
            signal=b.signal_state,
            wilder=b.wilder_state,
            filled=filled[-1].copy(),
            flat_run=run.astype(np.float64),
            real_bars=rows.real_bars[-1].astype(np.float64),
            slices_seen=rows.slices_seen[-1:].astype(np.float64),
            last_time_ms=rows.open_time_ms[-1:].astype(np.float64),
        )


def _view(rows: MarketRows, block: slice) -> MarketRows:
    return MarketRows(*(getattr(rows, field.name)[block] for field in fields(rows)))


def _refuse_infinite(values: Floats32, schema: Schema, open_time_ms: Ints) -> None:
    if np.isfinite(values).all():
        return
    row, column = np.argwhere(~np.isfinite(values))[0]
    raise InputError(f"{schema.names[column]} of {_text(open_time_ms[row])} is {values[row, column]}")


def _text(time_ms: np.int64) -> str:
    return datetime.fromtimestamp(int(time_ms) / 1000, tz=UTC).isoformat()
