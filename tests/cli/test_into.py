"""`tradeguard replay --into`: recorded candles traded again, live, on a server where other books are."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.arguments import BAD_INPUT
from cli.into import WARM_UP, without_venue
from cli.main import FAILED, OK, main
from shared.contracts import POINTS_PER_UNIT
from shared.messages import BarClosed, Meta
from shared.streams import encode, from_milliseconds, key, market_id
from tests.conftest import RedisServer, redis_program
from tests.mesh.conftest import BUNDLE
from venue.book import CONTRACTS
from venue.market import BarSeries, synthetic_market

SEED = 3
START = datetime(2025, 1, 7, 8, tzinfo=UTC)  # the models trade in the hours that come a day later
SLICES = WARM_UP + 8
SYMBOLS = tuple(CONTRACTS)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "valkey").mkdir()
    server = RedisServer(redis_program("valkey"), tmp_path / "valkey")
    server.start()
    yield server
    server.kill()


def bars_of(client: Any, book: str) -> dict[str, tuple[str, ...]]:
    names = ("symbol", "open", "high", "low", "close", "synthetic")
    bars = client.xrange(key(book, "bars"))
    return {entry_id: tuple(fields[name] for name in names) for entry_id, fields in bars}


def record(client: Any, book: str) -> None:
    """Write candles as a gateway does: those of the warm-up first, then live ones; missing ones filled in."""
    print(f"seed {SEED}")
    market = synthetic_market(SEED, START, slices=SLICES)
    found = {name: {int(at): row for row, at in enumerate(market[name].open_time_ms)} for name in SYMBOLS}
    times = sorted({at for rows in found.values() for at in rows})
    for number, at_ms in enumerate(times):
        for place, symbol in enumerate(SYMBOLS):
            rows = found[symbol]
            last_ms = max(each for each in rows if each <= at_ms)
            bar = a_bar(market[symbol], rows[last_ms], at_ms, place, is_live=number >= WARM_UP)
            client.xadd(key(book, "bars"), encode(bar), market_id(bar.close_time, place))


def a_bar(series: BarSeries, row: int, at_ms: int, place: int, *, is_live: bool) -> BarClosed:
    """Return a row of a market as a bar; for a later time the flat one that stands in for it."""
    at, is_flat = from_milliseconds(at_ms), int(series.open_time_ms[row]) < at_ms
    columns = (series.close,) * 4 if is_flat else (series.open, series.high, series.low, series.close)
    tick = CONTRACTS[series.symbol].tick
    opened, high, low, close = (
        (Decimal(int(each[row])) / POINTS_PER_UNIT).quantize(tick) for each in columns
    )
    return BarClosed(
        meta=Meta.root(f"bar:{series.symbol}:{at_ms}", at), symbol=series.symbol, open_time=at,
        open=opened, high=high, low=low, close=close, tick_volume=0 if is_flat else 20,
        origin="live" if is_live else "backfill", synthetic=is_flat,
        index=place, slice_size=len(SYMBOLS), account_id="0-0",
    )  # fmt: skip


@pytest.mark.process
@pytest.mark.slow
def test_recorded_candles_are_traded_again_in_a_book_of_their_own(
    server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same prices, new orders, the simulated venue; settings of a real one are not even handed on."""
    (tmp_path / ".env").write_text("CT_HOST_TYPE=live\nDISCORD_WEBHOOK_URL=https://discord.invalid/hook\n")
    for name in ("CT_CLIENT_ID", "CT_CLIENT_SECRET", "CT_ACCESS_TOKEN"):
        monkeypatch.setenv(name, secrets.token_hex(8))
    monkeypatch.setenv("CT_ACCOUNT_ID", "1")
    monkeypatch.chdir(tmp_path)
    client: Any = redis.Redis.from_url(server.url, decode_responses=True)
    record(client, "main")
    into = ["--bundle", str(BUNDLE), "--into", "debug"]
    arguments = ["replay", "--redis", server.url, "--book", "main", *into]

    capsys.readouterr()
    assert main([*arguments, "--json"]) == OK
    result = json.loads(capsys.readouterr().out)
    assert result["fills"] > 0
    assert result["slices"] == SLICES - WARM_UP - 1
    recorded, played = bars_of(client, "main"), bars_of(client, "debug")
    traded = list(recorded)[len(SYMBOLS) * WARM_UP : -len(SYMBOLS)]
    assert traded == [entry_id for entry_id in played if entry_id >= traded[0]]
    assert {k: (recorded[k], bar) for k, bar in played.items() if recorded[k] != bar} == {}
    assert client.hget(key("debug", "health:gateway"), "status") == "stopped"
    assert not client.exists(key("debug", "health:notifier"))
    assert client.keys("tg:{main}:*") == [key("main", "bars")]

    status = main([*arguments, "--speed", "300", "--json"])  # made anew, and by its own clock
    again = json.loads(capsys.readouterr().out)
    assert again["duplicates"] == again["lost"] == again["unprotected"] == 0
    assert status == (OK if again["unresolved"] == 0 else FAILED)  # an order may be later than the last quote
    assert traded[-1] in bars_of(client, "debug")
    client.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--into", "x" * 13], "use 1 to 12 of a-z"),
        (["--into", "t-source"], "that is the recorded book"),
        (["--into", "t-there"], "there is such a book already"),
        (["--into", "t-other", "--from", "1"], "0 of its 308 slices lie before the first one"),
        (["--speed", "60"], "--speed and --notify are of --into BOOK"),
    ],
)
def test_what_cannot_be_played_is_said(
    arguments: list[str], said: str, server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started, nothing is written."""
    client: Any = redis.Redis.from_url(server.url)
    record(client, "t-source")
    client.set(key("t-there", "anything"), "of somebody")
    where = ["--redis", server.url, "--book", "t-source", "--bundle", str(BUNDLE)]
    assert main(["replay", *where, *arguments]) == BAD_INPUT
    assert said in capsys.readouterr().err
    assert client.dbsize() == 2
    client.close()


def test_settings_of_another_venue_are_not_handed_on() -> None:
    """What the executor decides by is; what leads to an account, or to another book's journal, is not."""
    given = {
        "CT_CLIENT_ID": "a",
        "GATEWAY_JOURNAL": "b",
        "VENUE_SEED": "c",
        "SIM_VENUE_FILE": "d",
        "EMPTY": "",
    }
    assert without_venue({**given, "EXECUTOR_PRESET": "e"}) == {"EXECUTOR_PRESET": "e"}
