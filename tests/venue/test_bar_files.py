"""Files of bars: good ones are read as they are, bad ones are refused with row, field and fix."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from shared.errors import InputError
from venue.bar_files import Gaps, describe_gaps, load_bars
from venue.book import CONTRACTS, SYMBOLS
from venue.calendar import M5_MS
from venue.market import BarSeries, synthetic_market

EURUSD = {"EURUSD": CONTRACTS["EURUSD"]}
HEADER = "time,open,high,low,close,volume"
ROWS = (
    "2018-03-05 12:00:00,1.23178,1.23230,1.23160,1.23200,40",
    "2018-03-05 12:05:00,1.23200,1.23210,1.23190,1.23195,31",
    "2018-03-05 12:15:00,1.23190,1.23190,1.23180,1.23185,22",
)
NOON = datetime(2018, 3, 5, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp()) * 1_000


def a_folder(path: Path, *rows: str, header: str = HEADER) -> Path:
    (path / "EURUSD.csv").write_text("\n".join((header, *rows)) + "\n")
    return path


def a_parquet(path: Path, **changes: object) -> Path:
    columns: dict[str, object] = {
        "time": pa.array([NOON, NOON + timedelta(minutes=5)], pa.timestamp("ns", tz="UTC")),
        "open": [1.1, 1.1],
        "high": [1.2, 1.2],
        "low": [1.0, 1.0],
        "close": [1.1, 1.1],
        "m1_count": [5, 5],
    }
    pa_parquet.write_table(pa.table({**columns, **changes}), path / "EURUSD.parquet")
    return path


def test_bars_come_out_in_points(tmp_path: Path) -> None:
    """The venue counts in 1/100,000, whatever the digits."""
    series = load_bars(a_folder(tmp_path, *ROWS), EURUSD)["EURUSD"]
    assert series.open_time_ms.tolist() == [NOON_MS, NOON_MS + M5_MS, NOON_MS + 3 * M5_MS]
    assert series.open.tolist() == [123_178, 123_200, 123_190]
    assert series.high.tolist() == [123_230, 123_210, 123_190]
    assert series.low.tolist() == [123_160, 123_190, 123_180]
    assert series.close.tolist() == [123_200, 123_195, 123_185]
    assert series.volume is not None
    assert series.volume.tolist() == [40, 31, 22]


def test_window_takes_its_start_and_leaves_its_end(tmp_path: Path) -> None:
    """Two windows side by side share no bar and lose none."""
    folder = a_folder(tmp_path, *ROWS)
    middle = NOON + timedelta(minutes=5)
    first = load_bars(folder, EURUSD, end=middle)["EURUSD"]
    second = load_bars(folder, EURUSD, start=middle)["EURUSD"]
    assert first.open.tolist() == [123_178]
    assert second.open.tolist() == [123_200, 123_190]
    assert load_bars(folder, EURUSD, start=NOON + timedelta(days=1))["EURUSD"].open.tolist() == []


def test_parquet_without_volume_leaves_it_to_the_path(tmp_path: Path) -> None:
    """m1_count is no volume: a source without one says so, and the model fills it."""
    assert load_bars(a_parquet(tmp_path), EURUSD)["EURUSD"].volume is None


def test_tick_volume_is_a_volume_too(tmp_path: Path) -> None:
    """Exports of other platforms name it so."""
    volume = load_bars(a_parquet(tmp_path, tick_volume=[7, 8]), EURUSD)["EURUSD"].volume
    assert volume is not None
    assert volume.tolist() == [7, 8]


def test_prices_are_rounded_to_the_contract(tmp_path: Path) -> None:
    """A source with three digits of gold trades at a venue with two."""
    header = "time,symbol,open,high,low,close"
    row = "2018-03-05T12:00:00Z,XAUUSD,1322.9449,1323.106,1322.901,1322.903"
    (tmp_path / "bars.csv").write_text(f"{header}\n{row}\n")
    series = load_bars(tmp_path / "bars.csv", {"XAUUSD": CONTRACTS["XAUUSD"]})["XAUUSD"]
    prices = (series.open, series.high, series.low, series.close)
    assert [column.tolist() for column in prices] == [
        [132_294_000],
        [132_311_000],
        [132_290_000],
        [132_290_000],
    ]


def test_one_file_of_all_symbols_is_what_many_files_are(tmp_path: Path) -> None:
    """Both forms are read by the same code, across the batches it reads in."""
    market = synthetic_market(5, NOON, slices=4_000)
    lines: list[tuple[int, str]] = []
    for symbol, series in market.items():
        assert series.volume is not None
        columns = (series.open, series.high, series.low, series.close)
        for index, time_ms in enumerate(series.open_time_ms.tolist()):
            time = datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
            prices = ",".join(f"{column[index] / 100_000:.5f}" for column in columns)
            lines.append((time_ms, f"{time},{symbol},{prices},{series.volume[index]}.0"))
    lines.sort(key=lambda line: line[0])
    file = tmp_path / "all.csv"
    file.write_text("\n".join(["time,symbol,open,high,low,close,volume", *(line for _, line in lines)]))
    loaded = load_bars(file, CONTRACTS)
    assert tuple(loaded) == SYMBOLS
    for symbol, series in loaded.items():
        for name in ("open_time_ms", "open", "high", "low", "close", "volume"):
            np.testing.assert_array_equal(getattr(series, name), getattr(market[symbol], name))


def test_reading_does_not_import_pandas(tmp_path: Path) -> None:
    """It would cost the process a third more memory, and Arrow's short cuts import it unasked."""
    a_folder(tmp_path, *ROWS)
    code = (
        "import sys; from pathlib import Path; from venue.bar_files import load_bars; "
        "from venue.book import CONTRACTS; "
        f"load_bars(Path({str(tmp_path)!r}), {{'EURUSD': CONTRACTS['EURUSD']}}); "
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def changed(row: int, old: str, new: str) -> tuple[str, ...]:
    assert old in ROWS[row - 1]
    return (*ROWS[: row - 1], ROWS[row - 1].replace(old, new, 1), *ROWS[row:])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(2, "12:05:00", "12:05:30"), "row 2, time: .* is not a five-minute mark"),
        (
            changed(2, "12:05:00", "12:05:00+02:00"),
            r"row 2, time: .*\+02:00 is not in UTC: convert it to UTC",
        ),
        (changed(2, "12:05:00", "12:05:00 EST"), "row 2, time: .*EST is not in UTC: convert it to UTC"),
        (changed(2, "2018-03-05 12:05:00", "5 March"), "row 2, time: 5 March is not YYYY-MM-DD HH:MM:SS"),
        (changed(3, "12:15", "12:00"), "row 3, time: 2018-03-05 12:00:00 after .*: sort the rows by time"),
        (
            changed(2, "12:05", "12:00"),
            "row 2, time: 2018-03-05 12:00:00 stands twice for EURUSD: remove one",
        ),
        (changed(2, "1.23210", "1.23192"), "row 2, high: 1.23192 is below open 1.232 or close 1.23195"),
        (changed(3, "1.23180", "1.23187"), "row 3, low: 1.23187 is above open 1.2319 or close 1.23185"),
        (changed(1, "1.23178", "nan"), "row 1, open: nan is not a price above zero"),
        (changed(1, "1.23178", ""), "row 1, open: .* is not a"),
        (changed(1, "1.23230", "inf"), "row 1, high: inf is not a price above zero"),
        (changed(3, "1.23185", "0"), "row 3, close: 0.0 is not a price above zero"),
        (changed(3, "1.23185", "-1.2"), "row 3, close: -1.2 is not a price above zero"),
        (changed(3, "1.23185", "1,2"), "cannot be read: .*Row #4"),
        (changed(3, "1.23185", "high"), "row 3, close: high is not a number"),
        (changed(2, ",31", ",-31"), "row 2, volume: -31.0 is not a count of ticks"),
        (changed(2, ",31", ",3.5"), "row 2, volume: 3.5 is not a count of ticks"),
        ((), ": no rows of EURUSD"),
    ],
)
def test_bad_row_is_named_with_its_field(tmp_path: Path, rows: tuple[str, ...], message: str) -> None:
    """Whoever gets the message can mend the file without looking for the place."""
    with pytest.raises(InputError, match=rf"EURUSD\.csv.*{message}"):
        load_bars(a_folder(tmp_path, *rows), EURUSD)


def test_missing_file_of_a_symbol_is_named(tmp_path: Path) -> None:
    """Four symbols instead of five would be another strategy."""
    with pytest.raises(InputError, match=r"no GBPUSD\.parquet and no GBPUSD\.csv: add one"):
        load_bars(a_folder(tmp_path, *ROWS), {**EURUSD, "GBPUSD": CONTRACTS["GBPUSD"]})


def test_missing_rows_of_a_symbol_are_named(tmp_path: Path) -> None:
    """The same in one file of all."""
    file = tmp_path / "bars.csv"
    file.write_text("time,symbol,open,high,low,close\n2018-03-05 12:00:00,GBPUSD,1.3,1.3,1.3,1.3\n")
    with pytest.raises(InputError, match="no rows of EURUSD"):
        load_bars(file, EURUSD)


def test_two_files_of_one_symbol_are_refused(tmp_path: Path) -> None:
    """Which of them is the data set would be a guess."""
    with pytest.raises(InputError, match=r"both EURUSD\.parquet and EURUSD\.csv: keep one"):
        load_bars(a_parquet(a_folder(tmp_path, *ROWS)), EURUSD)


def test_missing_column_is_named_with_those_present(tmp_path: Path) -> None:
    """A misspelt header is seen at once."""
    folder = a_folder(tmp_path, *ROWS, header="Time,open,high,low,close,volume")
    with pytest.raises(InputError, match="no column time in Time, open"):
        load_bars(folder, EURUSD)


def test_single_csv_needs_a_symbol_column(tmp_path: Path) -> None:
    """Its rows would belong to nobody."""
    with pytest.raises(InputError, match="no column symbol in"):
        load_bars(a_folder(tmp_path, *ROWS) / "EURUSD.csv", EURUSD)


def test_parquet_in_another_zone_is_refused(tmp_path: Path) -> None:
    """Stamps in a local zone hint at bars cut by it."""
    times = pa.array([NOON, NOON + timedelta(minutes=5)], pa.timestamp("ms", tz="America/New_York"))
    with pytest.raises(InputError, match="row 1, time: is in zone America/New_York: convert it to UTC"):
        load_bars(a_parquet(tmp_path, time=times), EURUSD)


def test_parquet_with_times_as_numbers_is_refused(tmp_path: Path) -> None:
    """Seconds or milliseconds, open or close: nothing says which."""
    with pytest.raises(InputError, match="row 1, time: is int64: store timestamps in UTC"):
        load_bars(a_parquet(tmp_path, time=[NOON_MS, NOON_MS + M5_MS]), EURUSD)


def test_empty_cells_of_a_parquet_are_named(tmp_path: Path) -> None:
    """An absent bar has no row; a row has all its values."""
    with pytest.raises(InputError, match="row 2, close: nan is not a price above zero"):
        load_bars(a_parquet(tmp_path, close=[1.1, None]), EURUSD)
    times = pa.array([NOON, None], pa.timestamp("ms"))
    with pytest.raises(InputError, match="row 2, time: is empty"):
        load_bars(a_parquet(tmp_path, time=times), EURUSD)


def test_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    """A download that broke off is a bad file, not a crash."""
    (tmp_path / "EURUSD.parquet").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"EURUSD\.parquet: cannot be read"):
        load_bars(tmp_path, EURUSD)


@pytest.mark.parametrize("name", ["nowhere", "bars.parquet"])
def test_path_that_is_neither_folder_nor_csv_is_refused(tmp_path: Path, name: str) -> None:
    """The message says what would do."""
    (tmp_path / "bars.parquet").touch()
    with pytest.raises(InputError, match=r"give a folder|give its folder"):
        load_bars(tmp_path / name, EURUSD)


def test_naive_limit_is_refused(tmp_path: Path) -> None:
    """Times are aware everywhere."""
    with pytest.raises(InputError, match=r"start 2018-03-05 .* has no time zone"):
        load_bars(a_folder(tmp_path, *ROWS), EURUSD, start=NOON.replace(tzinfo=None))


def a_series(symbol: str, times: list[int]) -> BarSeries:
    ones = np.full(len(times), 100_000)
    return BarSeries(symbol, np.array(times), ones, ones, ones, ones, None)


def test_gaps_inside_a_session_are_counted() -> None:
    """A gap is no error, but whoever imports data wants to see it."""
    series = a_series("EURUSD", [NOON_MS + index * M5_MS for index in (0, 1, 3, 4, 8)])
    assert describe_gaps(series) == Gaps(4, 2, 3, NOON_MS + 5 * M5_MS, 0)


def test_weekends_and_breaks_are_no_gaps() -> None:
    """Nothing is missing where nothing can be."""
    friday_last, sunday_first = (
        int(datetime(2018, 3, day, hour, minute, tzinfo=UTC).timestamp()) * 1_000
        for day, hour, minute in ((9, 21, 55), (11, 22, 0))
    )
    assert describe_gaps(a_series("XAUUSD", [friday_last, sunday_first])) == Gaps(0, 0, 0, None, 0)
    assert describe_gaps(a_series("XAUUSD", [friday_last + M5_MS])).outside_session_bars == 1
