"""The venue's quotes as slices on the streams: what was seen, whole, in order, and once."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from services.gateway import feed
from services.gateway.protocol import model, oa
from services.gateway.slices import Bar
from services.gateway.translate import price_of
from shared import streams
from shared.messages import BarClosed
from tests.conftest import RedisServer
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import M5_MS, SYMBOLS, Gateway, Place, a_gateway, a_place
from venue.book import CONTRACTS
from venue.calendar import NEW_YORK

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

EURO, GOLD = SYMBOLS


def as_read(bar: Bar[int]) -> tuple[str, int, list[Decimal]]:
    digits = CONTRACTS[bar.symbol].digits
    prices = [price_of(points, digits) for points in (bar.open, bar.high, bar.low, bar.close)]
    return bar.symbol, bar.open_time_ms, prices


def as_told(bar: BarClosed) -> tuple[str, int, list[Decimal]]:
    prices = [bar.open, bar.high, bar.low, bar.close]
    return bar.symbol, streams.milliseconds(bar.open_time), prices


async def assert_bars_are_the_venues(place: Place, gateway: Gateway) -> list[BarClosed]:
    """Compare every bar on the stream with the venue's own history; none missing, none twice."""
    bars = await place.bars()
    opens = [streams.milliseconds(bar.open_time) for bar in bars]
    assert opens == sorted(opens)
    for symbol in SYMBOLS:
        history = await gateway.session.history(symbol, 200, place.now_ms)
        told = [as_told(bar) for bar in bars if bar.symbol == symbol and not bar.synthetic]
        read = [as_read(bar) for bar in history if opens[0] <= bar.open_time_ms <= opens[-1]]
        assert told == read
    whole = range(opens[0], opens[-1] + 1, M5_MS)
    assert opens == [at for at in whole for _ in SYMBOLS]
    return bars


@on_loop
async def test_slices_on_the_stream_are_the_bars_of_the_venue(tmp_path: Path, valkey: RedisServer) -> None:
    """Live bars end as the history has them, behind a warm-up that is flagged, without a seam."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        await place.step(6 * M5_MS + 1_000)
        await until_so(lambda: place.has_live_slices(7))
        bars = await assert_bars_are_the_venues(place, gateway)
        origins = [bar.origin for bar in bars[:: len(SYMBOLS)]]
        assert origins == ["backfill"] * 5 + ["live"] * 7
        assert [bar.symbol for bar in bars[:2]] == [EURO, GOLD]


@on_loop
async def test_slice_comes_with_the_account_at_its_closing_quotes(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Signal, price and account come from one moment: the bid of the account is the close of the bar."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place):
        await place.step(4 * M5_MS + 1_000)
        await until_so(lambda: place.has_live_slices(5))
        accounts = dict(await place.history(streams.ACCOUNT))
        live = [bar for bar in await place.bars() if bar.origin == "live"]
        for bar in live:
            account = accounts[bar.account_id]
            assert account.quotes[bar.symbol].bid == bar.close
            assert (account.cause, account.live) == ("slice", True)
            assert streams.id_parts(bar.account_id)[0] >= streams.milliseconds(bar.close_time)
        assert len({bar.account_id for bar in live}) == 5


@on_loop
async def test_restart_in_the_middle_of_a_bar_leaves_no_gap_and_nothing_twice(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """What was missed is told as such; the bar that was forming is whole."""
    async with a_place(tmp_path, valkey.url) as place:
        async with a_gateway(place):
            await place.step(2 * M5_MS + 100_000)
            await until_so(lambda: place.has_live_slices(3))
        await place.step(3 * M5_MS)
        async with a_gateway(place) as gateway:
            await place.step(2 * M5_MS)
            await until_so(lambda: place.has_live_slices(5))
            bars = await assert_bars_are_the_venues(place, gateway)
            origins = [bar.origin for bar in bars[:: len(SYMBOLS)]]
            assert origins == ["backfill"] * 5 + ["live"] * 3 + ["backfill"] * 3 + ["live"] * 2


@on_loop
async def test_lost_connection_in_the_middle_of_a_bar_leaves_no_gap(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """The same process goes on where the streams end."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        await place.step(M5_MS + 100_000)
        await until_so(lambda: place.has_live_slices(1))
        gateway.cut()
        await place.step(2 * M5_MS)
        await until(gateway.is_online)
        await place.step(2 * M5_MS)
        await until_so(lambda: place.has_live_slices(3))
        await assert_bars_are_the_venues(place, gateway)


@on_loop
async def test_golds_daily_break_is_synthetic_and_nothing_waits_for_it(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """From 17:00 to 18:00 in New York gold has no quotes; the slice is complete all the same."""
    before = datetime(2025, 1, 7, 16, 52, tzinfo=NEW_YORK)
    async with a_place(tmp_path, valkey.url, start=before) as place, a_gateway(place):
        await place.step(80 * 60_000)
        await until_so(lambda: place.has_live_slices(15))
        bars = [bar for bar in await place.bars() if bar.origin == "live"]
    gold = {bar.open_time.astimezone(NEW_YORK): bar for bar in bars if bar.symbol == GOLD}
    in_break = [bar.synthetic for at, bar in gold.items() if at.hour == 17]
    assert in_break
    assert all(in_break)
    assert not any(bar.synthetic for at, bar in gold.items() if at.hour != 17)
    assert len({bar.close for at, bar in gold.items() if at.hour == 17}) == 1


@on_loop
async def test_slice_that_ends_a_week_is_told_on_sunday_and_not_traded(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Without a timer it is closed by Sunday's first quote: too late to decide on, no weekend in between."""
    friday = datetime(2025, 1, 10, 16, 51, tzinfo=NEW_YORK)
    async with a_place(tmp_path, valkey.url, slices=1_600, start=friday) as place, a_gateway(place):
        await place.venue.exchange.play(place.now_ms + 49 * 3_600_000)
        last_friday = datetime(2025, 1, 10, 16, 55, tzinfo=NEW_YORK)
        told: dict[datetime, BarClosed] = {}

        async def is_sunday_told() -> bool:
            euros = [bar for bar in await place.bars() if bar.symbol == EURO]
            told.update({bar.open_time.astimezone(NEW_YORK): bar for bar in euros})
            return max(told, default=last_friday) > last_friday

        await until_so(is_sunday_told)
        assert told[last_friday].origin == "backfill"
        assert not [at for at in told if last_friday < at < last_friday + timedelta(hours=48)]


@on_loop
async def test_quote_that_comes_after_its_slice_is_one_alarm_and_no_entry(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """What was published stays; a human may want to wait longer for quotes."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        await place.step(M5_MS + 1_000)
        await until_so(lambda: place.has_live_slices(1))
        before = await place.bars()
        late = before[-1]
        spot = oa.ProtoOASpotEvent(
            ctidTraderAccountId=1, symbolId=next(iter(gateway.session.by_id)), bid=105_000
        )
        minutes = streams.milliseconds(late.open_time) // 60_000
        spot.trendbar.add(period=model.M5, volume=3, low=105_000, utcTimestampInMinutes=minutes)
        for _ in range(3):
            await gateway.feed.on_spot(spot)
        await until_so(lambda: place.has_alarm("came after its slice"))
        assert await place.bars() == before
        assert sum("came after its slice" in text for text in await place.alarms()) == 1


@pytest.mark.parametrize("fault", ["live_bar_missing", "live_bar_old"])
@on_loop
async def test_bars_are_the_venues_though_quotes_come_without_theirs(
    tmp_path: Path, valkey: RedisServer, fault: str
) -> None:
    """Without its bar, or under the name of the one before, a quote is still in the bar that it is in."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        struck = place.fault(fault, count=1_000, probability=0.3)
        await place.step(6 * M5_MS + 1_000)
        await until_so(lambda: place.has_live_slices(7))
        assert struck.fired > 20
        await assert_bars_are_the_venues(place, gateway)
        assert not await place.has_alarm("came after its slice")


@on_loop
async def test_history_that_lacks_the_bar_that_has_just_closed_is_asked_again(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes a second late at times: a bar that there was is not made up, and its slice not left out."""
    monkeypatch.setattr(feed, "HISTORY_AGAIN_S", 0.05)
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        await place.step(2 * M5_MS + 1_000)
        await until_so(lambda: place.has_live_slices(3))
        late = place.fault("history_late", count=3)  # gold's once more
        gateway.cut()
        await place.step(M5_MS)
        await until(gateway.is_online)
        await place.step(M5_MS)
        await until_so(lambda: place.has_live_slices(4))
        assert late.fired == 3
        bars = await assert_bars_are_the_venues(place, gateway)
        assert not any(bar.synthetic for bar in bars)


@on_loop
async def test_side_that_is_absent_keeps_its_last_price(tmp_path: Path, valkey: RedisServer) -> None:
    """Absent is not zero."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        await place.step(10_000)
        account = gateway.desk.account.model
        assert account is not None
        before = account.quotes[EURO]
        euro_id = next(iter(gateway.session.by_id))
        stamp = place.now_ms + 5
        await gateway.feed.on_spot(
            oa.ProtoOASpotEvent(ctidTraderAccountId=1, symbolId=euro_id, ask=199_999, timestamp=stamp)
        )
        quote = account.quotes[EURO]
        assert (quote.bid, quote.ask, quote.time_ms) == (before.bid, Decimal("1.99999"), stamp)


@on_loop
async def test_too_little_history_is_no_start(tmp_path: Path, valkey: RedisServer) -> None:
    """Without the warm-up nothing is decided; the reason is told, and it is tried again."""
    async with a_place(tmp_path, valkey.url, history_slices=30) as place:
        place.warmup = 60
        async with a_gateway(place, wait=False) as gateway:
            await until(lambda: "slices of history, 60 are needed" in gateway.connection.trouble)
        assert await place.bars() == []
