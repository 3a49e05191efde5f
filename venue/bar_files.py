"""Bars from files: a folder with one Parquet or CSV file a symbol, or one CSV with a symbol column.

Files are read in batches and only the columns and rows that are needed are kept, so the process
stays as small as what it asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray

from shared.contracts import Contract
from shared.errors import InputError
from venue.calendar import M5_MS, is_open
from venue.market import BarSeries
from venue.ticks import tick_points

__all__ = ["BarSeries", "Gaps", "describe_gaps", "load_bars"]

BATCH_ROWS = 16_384
CSV_BLOCK_BYTES = 1 << 20

PRICE_FIELDS = ("open", "high", "low", "close")
VOLUME_FIELDS = ("volume", "tick_volume")  # the first that is there counts

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

_UTC_SUFFIX = r"\s*(Z|UTC|[+-]00:?00)$"
_OTHER_ZONE = r"[0-9]{2}:[0-9]{2}.*([+-][0-9]{2}:?[0-9]{2}|[A-Za-z]+)$"
_UTC_ZONES = frozenset({"UTC", "Etc/UTC", "GMT", "Z", "+00:00"})


class Gaps(NamedTuple):
    """What is missing between the first and the last bar of a series. Gaps are normal in FX."""

    missing_bars: int  # stamps inside the sessions without a bar: no ticks, or a holiday
    runs: int  # uninterrupted stretches of them
    longest_run_bars: int
    longest_run_open_ms: int | None
    outside_session_bars: int  # bars at times when the symbol should be closed


def load_bars(
    path: Path,
    contracts: Mapping[str, Contract],
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> dict[str, BarSeries]:
    """Return the bars of every contract's symbol, in the contracts' order, with start <= open < end.

    Columns are time, open, high, low, close and, where there is one, volume or tick_volume; others
    are passed over. Times without a zone are UTC. Prices with more digits than the contract are
    rounded to it. Absent bars are normal (see `describe_gaps`), and so is a window without any; a bar
    that is wrong is not.

    Args:
        path: a folder with `<symbol>.parquet` or `<symbol>.csv`, or one CSV with a symbol column.
        contracts: by symbol; their digits decide the grid of prices.
        start: aware time of the first open that is wanted; None for no limit.
        end: aware time of the first open that is not; None for no limit.

    Raises:
        InputError: file, row (the first row of data is 1), field, and how to mend it.
    """
    for name, limit in (("start", start), ("end", end)):
        if limit is not None and limit.tzinfo is None:
            raise InputError(f"{name} {limit} has no time zone: give an aware time")
    window = _Window(_to_ms(start, -(2**62)), _to_ms(end, 2**62))
    if path.is_dir():
        files = {symbol: _file_of(path, symbol) for symbol in contracts}
        return {
            symbol: _series(file, _read(file, [symbol], window, one_symbol=True)[symbol], contracts[symbol])
            for symbol, file in files.items()
        }
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder: give a folder of bars or one CSV file")
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path}: a single file must be a CSV with a symbol column: give its folder instead")
    found = _read(path, list(contracts), window, one_symbol=False)
    return {symbol: _series(path, found[symbol], contracts[symbol]) for symbol in contracts}


def describe_gaps(series: BarSeries) -> Gaps:
    """Count what is absent inside the symbol's sessions, from its first bar to its last."""
    opens = series.open_time_ms
    missing = runs = longest = 0
    longest_open: int | None = None
    for before in np.flatnonzero(np.diff(opens) > M5_MS):
        stamps = range(int(opens[before]) + M5_MS, int(opens[before + 1]), M5_MS)
        absent = [stamp for stamp in stamps if is_open(series.symbol, stamp)]
        missing += len(absent)
        runs += bool(absent)
        if len(absent) > longest:
            longest, longest_open = len(absent), absent[0]
    outside = sum(not is_open(series.symbol, stamp) for stamp in opens.tolist())
    return Gaps(missing, runs, longest, longest_open, outside)


class _Window(NamedTuple):
    start_ms: int
    end_ms: int


@dataclass
class _Rows:
    """What was read of one symbol: every row's time, and the rest of the rows inside the window."""

    symbol: str
    seen: int = 0
    last_ms: int = -(2**62)
    row: list[Integers] = field(default_factory=list)
    time_ms: list[Integers] = field(default_factory=list)
    columns: dict[str, list[Floats]] = field(default_factory=dict)


def _to_ms(limit: datetime | None, default: int) -> int:
    if limit is None:
        return default
    since = limit - datetime(1970, 1, 1, tzinfo=UTC)
    return -((since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds) // -1_000)


def _file_of(folder: Path, symbol: str) -> Path:
    files = [file for suffix in ("parquet", "csv") if (file := folder / f"{symbol}.{suffix}").is_file()]
    if not files:
        raise InputError(f"{folder}: no {symbol}.parquet and no {symbol}.csv: add one, or drop the symbol")
    if len(files) > 1:
        raise InputError(f"{folder}: both {files[0].name} and {files[1].name}: keep one of them")
    return files[0]


def _read(path: Path, symbols: list[str], window: _Window, *, one_symbol: bool) -> dict[str, _Rows]:
    rows = {symbol: _Rows(symbol) for symbol in symbols}
    first_row = 1
    for batch in _batches(path, () if one_symbol else ("symbol",)):
        if not batch.num_rows:
            continue
        numbers = np.arange(first_row, first_row + batch.num_rows)
        first_row += batch.num_rows
        time_ms = _times(path, batch.column("time"), numbers)
        owner = np.zeros(batch.num_rows, np.int64) if one_symbol else _owners(batch, symbols)
        for code, symbol in enumerate(symbols):
            _take(path, rows[symbol], batch, window, numbers, time_ms, np.flatnonzero(owner == code))
    for symbol in symbols:
        if rows[symbol].seen == 0:
            raise InputError(f"{path}: no rows of {symbol}: add its bars, or drop the symbol")
    return rows


def _owners(batch: Any, symbols: list[str]) -> Integers:  # noqa: ANN401 - pyarrow carries no usable types
    """Return for each row which of the symbols it belongs to, -1 for one that is not wanted."""
    encoded = batch.column("symbol").dictionary_encode()
    known = {symbol: code for code, symbol in enumerate(symbols)}
    codes = [known.get(name, -1) for name in encoded.dictionary.to_pylist()]
    owners: Integers = np.array([*codes, -1])[_values(encoded.indices, -1)]
    return owners


def _take(
    path: Path,
    rows: _Rows,
    batch: Any,  # noqa: ANN401 - as above
    window: _Window,
    numbers: Integers,
    times: Integers,
    own: Integers,
) -> None:
    """Check the times of a symbol's rows of one batch, and keep the rows inside the window."""
    if not own.size:
        return
    time_ms = times[own]
    previous = np.concatenate(([rows.last_ms], time_ms[:-1]))
    for bad in np.flatnonzero(time_ms <= previous)[:1]:
        row, stamp = numbers[own[bad]], _text(time_ms[bad])
        if time_ms[bad] == previous[bad]:
            raise _wrong(path, row, "time", f"{stamp} stands twice for {rows.symbol}: remove one of the rows")
        raise _wrong(path, row, "time", f"{stamp} after {_text(previous[bad])}: sort the rows by time")
    rows.seen += time_ms.size
    rows.last_ms = int(time_ms[-1])
    kept = own[(time_ms >= window.start_ms) & (time_ms < window.end_ms)]
    if not kept.size:
        return
    rows.row.append(numbers[kept])
    rows.time_ms.append(times[kept])
    first, last = int(kept[0]), int(kept[-1])
    picked = batch.slice(first, last + 1 - first)
    for name in (*PRICE_FIELDS, *VOLUME_FIELDS):
        if name in batch.schema.names:
            values = _numbers(path, name, picked.column(name), int(numbers[first]))
            rows.columns.setdefault(name, []).append(values[kept - first])


def _batches(path: Path, extra: tuple[str, ...]) -> Iterator[Any]:
    """Yield the needed columns of a file, a few thousand rows at a time, in its order."""
    with _reading(path):
        if path.suffix == ".parquet":
            with pa_parquet.ParquetFile(path) as file:
                names = _needed(path, file.schema_arrow.names, extra)
                yield from file.iter_batches(BATCH_ROWS, columns=names, use_threads=False)
            return
        options = pa_csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES)
        with path.open("rb") as head:
            header = head.readline().decode("utf-8-sig").strip()
        names = _needed(path, [name.strip().strip('"') for name in header.split(",")], extra)
        convert = pa_csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.string()))
        with pa_csv.open_csv(path, read_options=options, convert_options=convert) as reader:
            yield from reader


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}: write the file anew") from error


def _needed(path: Path, present: list[str], extra: tuple[str, ...]) -> list[str]:
    wanted = (*extra, "time", *PRICE_FIELDS)
    missing = [name for name in wanted if name not in present]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)} in {', '.join(present)}: add or rename it")
    return [*wanted, *[name for name in VOLUME_FIELDS if name in present][:1]]


def _times(path: Path, column: Any, numbers: Integers) -> Integers:  # noqa: ANN401 - as above
    """Return the times in UTC milliseconds, on the five-minute grid."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _parsed_times(path, column, numbers)
    if not pa.types.is_timestamp(column.type):
        raise _wrong(path, numbers[0], "time", f"is {column.type}: store timestamps in UTC")
    if column.type.tz not in (None, *_UTC_ZONES):
        raise _wrong(path, numbers[0], "time", f"is in zone {column.type.tz}: convert it to UTC")
    for bad in np.flatnonzero(_flags(column.is_null()))[:1]:
        raise _wrong(path, numbers[bad], "time", "is empty: give the bar's open time, or remove the row")
    nanoseconds: Integers = _values(column.cast(pa.timestamp("ns")).cast(pa.int64()), 0)
    for bad in np.flatnonzero(nanoseconds % (M5_MS * 1_000_000))[:1]:
        stamp = np.datetime64(int(nanoseconds[bad]), "ns")
        raise _wrong(path, numbers[bad], "time", f"{stamp} is not a five-minute mark: give bar opens of M5")
    return nanoseconds // 1_000_000


def _parsed_times(path: Path, column: Any, numbers: Integers) -> Any:  # noqa: ANN401 - as above
    bare = pc.replace_substring_regex(column, _UTC_SUFFIX, "")
    zoned = _flags(pc.match_substring_regex(bare, _OTHER_ZONE))
    for bad in np.flatnonzero(zoned)[:1]:
        raise _wrong(path, numbers[bad], "time", f"{column[bad]} is not in UTC: convert it to UTC")
    try:
        return pc.cast(bare, pa.timestamp("ms"))
    except pa.ArrowInvalid:
        bad = _first_uncast(bare, pa.timestamp("ms"))
    raise _wrong(
        path, numbers[bad], "time", f"{column[bad]!s} is not YYYY-MM-DD HH:MM:SS: write it so, in UTC"
    )


def _numbers(path: Path, name: str, column: Any, first_number: int) -> Floats:  # noqa: ANN401 - as above
    """Return a column as floats, with NaN where it is empty."""
    try:
        return _values(pc.cast(column, pa.float64(), safe=False), np.nan)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        bad = _first_uncast(column, pa.float64())
        raise _wrong(path, first_number + bad, name, f"{column[bad]!s} is not a number: write one") from None


def _values(column: Any, empty: float) -> NDArray[Any]:  # noqa: ANN401 - as above
    """Return a column as an array of its own, `empty` where it has no value.

    The long way round: Arrow's to_numpy and scalars import pandas, 35 MB that nothing here needs.
    """
    buffers = [None, column.buffers()[1]]
    bare = pa.Array.from_buffers(column.type, len(column), buffers, offset=column.offset)
    values = np.array(np.from_dlpack(bare))
    if column.null_count:
        values[_flags(column.is_null())] = empty
    return values


def _flags(column: Any) -> NDArray[np.bool_]:  # noqa: ANN401 - as above
    return _values(column.cast(pa.uint8()), 0).astype(np.bool_)


def _first_uncast(column: Any, kind: Any) -> int:  # noqa: ANN401 - as above
    for index in range(len(column)):
        try:
            pc.cast(column.slice(index, 1), kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return index
    return 0


def _series(path: Path, rows: _Rows, contract: Contract) -> BarSeries:
    """Check the values of one symbol and bring them onto its grid."""
    columns = {name: np.concatenate(parts) for name, parts in rows.columns.items()}
    numbers = np.concatenate(rows.row) if rows.row else np.empty(0, np.int64)
    if not rows.row:
        columns = {name: np.empty(0) for name in PRICE_FIELDS}
    open_, high, low, close = (columns[name] for name in PRICE_FIELDS)
    for name in PRICE_FIELDS:
        for bad in np.flatnonzero(~(np.isfinite(columns[name]) & (columns[name] > 0)))[:1]:
            price = columns[name][bad]
            raise _wrong(
                path, numbers[bad], name, f"{price} is not a price above zero: mend or remove the row"
            )
    for bad in np.flatnonzero(high < np.maximum(open_, close))[:1]:
        values = f"{high[bad]} is below open {open_[bad]} or close {close[bad]}"
        raise _wrong(path, numbers[bad], "high", f"{values}: mend or remove the row")
    for bad in np.flatnonzero(low > np.minimum(open_, close))[:1]:
        values = f"{low[bad]} is above open {open_[bad]} or close {close[bad]}"
        raise _wrong(path, numbers[bad], "low", f"{values}: mend or remove the row")
    points = {name: _points(columns[name], contract) for name in PRICE_FIELDS}
    for bad in np.flatnonzero(points["low"] <= 0)[:1]:
        raise _wrong(
            path, numbers[bad], "low", f"{low[bad]} is zero at {contract.digits} digits: mend the row"
        )
    return BarSeries(
        symbol=contract.symbol,
        open_time_ms=np.concatenate(rows.time_ms) if rows.time_ms else np.empty(0, np.int64),
        **points,
        volume=_volume(path, columns, numbers),
    )


def _points(prices: Floats, contract: Contract) -> Integers:
    ticks: Integers = np.rint(prices * 10.0**contract.digits).astype(np.int64)
    return ticks * tick_points(contract)


def _volume(path: Path, columns: Mapping[str, Floats], numbers: Integers) -> Integers | None:
    for name in VOLUME_FIELDS:
        if name not in columns:
            continue
        values = columns[name]
        whole = np.isfinite(values) & (values >= 0) & (values == np.floor(values))
        for bad in np.flatnonzero(~whole)[:1]:
            reason = (
                f"{values[bad]} is not a count of ticks: give whole numbers from 0, or leave the column out"
            )
            raise _wrong(path, numbers[bad], name, reason)
        return values.astype(np.int64)
    return None


def _text(time_ms: np.int64) -> str:
    return str(np.datetime64(int(time_ms), "ms").astype("datetime64[s]")).replace("T", " ")


def _wrong(path: Path, row: np.int64 | int, name: str, reason: str) -> InputError:
    return InputError(f"{path}, row {row}, {name}: {reason}")
