"""What the service does with the bars of a slice."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from services.features.engine import FeatureEngine
from services.features.handlers import FeaturesHandlers
from services.features.portfolio import fill_portfolio, view_of
from shared.contracts import Contract, contracts_hash
from shared.errors import InputError, UnavailableError
from shared.messages import AccountReported, BarClosed, EventReported, FeaturesComputed, Message, TradeHistory
from shared.streams import decode, encode, market_id, milliseconds
from tests.features.builders import a_position, a_quote, an_account, bars_of_slice
from tests.features.conftest import SYMBOLS, a_market
from venue.book import CONTRACTS

MARKET = a_market(310)
WHOLE = MARKET.through(FeatureEngine(SYMBOLS))


class StubReader:
    """The book's accounts and terms, in memory."""

    def __init__(self, account: AccountReported | None = None) -> None:
        self.of_all = account or an_account()
        self.terms: dict[str, Contract] = dict(CONTRACTS)
        self.asked: list[str] = []

    async def account(self, entry_id: str) -> AccountReported:
        self.asked.append(entry_id)
        return self.of_all

    async def contracts(self) -> Mapping[str, Contract]:
        return self.terms


def handlers_after(slices: int, reader: StubReader) -> FeaturesHandlers:
    """Return handlers that have seen so many slices, as after a restart."""
    engine = FeatureEngine(SYMBOLS)
    MARKET[:slices].through(engine)
    handlers = FeaturesHandlers(SYMBOLS, reader)
    handlers.restore(engine.snapshot())
    return handlers


async def feed(handlers: FeaturesHandlers, bars: list[BarClosed]) -> list[Message]:
    for bar in bars[:-1]:
        assert await handlers.on_bar(bar) is None
    out = await handlers.on_bar(bars[-1])
    assert out is not None
    return out


async def features_of(row: int, reader: StubReader | None = None, **changes: Any) -> FeaturesComputed:
    out = await feed(handlers_after(row, reader or StubReader()), bars_of_slice(MARKET, row, **changes))
    assert len(out) == 1
    assert isinstance(out[0], FeaturesComputed), out
    return out[0]


async def test_slice_gives_one_row_with_its_last_bar() -> None:
    """Until then each bar is held, so that a slice is committed as a whole."""
    features = await features_of(299)
    assert features.slices_seen == 300
    assert (features.close_time - bars_of_slice(MARKET, 299)[0].open_time).total_seconds() == 300
    assert features.alpha_schema.startswith("alpha-140/1:")
    assert features.guard_schema.startswith("guard-105/1:")


async def test_nothing_is_said_before_three_hundred_slices() -> None:
    """The recursions still remember where the history began; the account is not even read."""
    reader = StubReader()
    handlers = handlers_after(298, reader)
    assert await feed(handlers, bars_of_slice(MARKET, 298)) == []
    assert reader.asked == []
    assert len(await feed(handlers, bars_of_slice(MARKET, 299))) == 1


async def test_live_columns_are_those_of_the_batch() -> None:
    """Through decimal text and back: not a bit differs from what training computes."""
    reader = StubReader(an_account(positions=(a_position("GBPUSD"),), used_margin=Decimal(100)))
    features = decode(encode(await features_of(305, reader)))
    assert isinstance(features, FeaturesComputed)
    alpha, guard = WHOLE.alpha[305].copy(), WHOLE.guard[305].copy()
    ticks = [float(contract.tick) for contract in CONTRACTS.values()]
    view = view_of(reader.of_all, SYMBOLS, milliseconds(features.close_time))
    fill_portfolio(alpha, guard, view, WHOLE.close[305].tolist(), WHOLE.atr[305].tolist(), ticks)
    assert np.array(features.alpha, np.float32).tobytes() == alpha.tobytes()
    assert np.array(features.guard, np.float32).tobytes() == guard.tobytes()
    assert [row.atr for row in features.rows] == WHOLE.atr[305].tolist()
    assert [row.atr_guard for row in features.rows] == WHOLE.atr_guard[305].tolist()
    assert [row.real_bars for row in features.rows] == WHOLE.real_bars[305].tolist()
    assert [row.close for row in features.rows] == WHOLE.close[305].tolist()


async def test_row_carries_what_the_later_stages_need_of_a_symbol() -> None:
    """Signal, stop and price come from the same row."""
    past = TradeHistory(results=(0.0, 0.0, 0.0, 0.01, -0.005))
    features = await features_of(300, StubReader(an_account(history={"USDJPY": past})))
    row = features.rows[2]
    assert (row.symbol, row.tick, row.history) == ("USDJPY", Decimal("0.001"), past)
    assert (row.bid, row.ask) == (Decimal("1.10000"), Decimal("1.10008"))
    assert features.rows[0].history == TradeHistory()


async def test_symbol_without_a_quote_has_a_price_that_is_refused() -> None:
    """One symbol's missing quote blocks that symbol; it does not take the slice from the others."""
    quotes = {symbol: a_quote() for symbol in SYMBOLS if symbol != "XAUUSD"}
    features = await features_of(300, StubReader(an_account(quotes=quotes)))
    assert (features.rows[4].bid, features.rows[4].ask) == (0, 0)


async def test_message_follows_from_the_slice_and_is_the_same_again() -> None:
    """A replay must write what is there already."""
    bars = bars_of_slice(MARKET, 300)
    first, again = await features_of(300), await features_of(300)
    assert first == again
    assert first.meta.correlation_id == bars[0].meta.correlation_id
    assert first.meta.causation_id == bars[-1].meta.message_id
    assert first.account_id == bars[0].account_id


@pytest.mark.parametrize(
    ("origin", "live", "expected"), [("live", True, True), ("backfill", True, False), ("live", False, False)]
)
async def test_slice_is_live_only_if_bars_and_account_are(origin: str, live: bool, expected: bool) -> None:
    """A signal of the past must never be traded."""
    features = await features_of(300, StubReader(an_account(live=live)), origin=origin)
    assert features.live is expected


async def test_bar_out_of_place_is_refused() -> None:
    """Half a slice must not be filled up from the next one."""
    handlers = handlers_after(300, StubReader())
    with pytest.raises(InputError, match="wanted was EURUSD's, number 1 of 5"):
        await handlers.on_bar(bars_of_slice(MARKET, 300)[1])
    await handlers.on_bar(bars_of_slice(MARKET, 300)[0])
    with pytest.raises(InputError, match="wanted was GBPUSD's"):
        await handlers.on_bar(bars_of_slice(MARKET, 301)[1])


async def test_restart_in_the_middle_of_a_slice_changes_nothing() -> None:
    """The held bars come again, and the state is that before the slice."""
    handlers = handlers_after(300, StubReader())
    bars = bars_of_slice(MARKET, 300)
    for bar in bars[:3]:
        await handlers.on_bar(bar)
    state = handlers.snapshot()
    handlers.restore(state)
    assert await feed(handlers, bars) == [await features_of(300)]
    handlers.restore(state)
    assert await feed(handlers, bars) == [await features_of(300)]


async def test_restoring_nothing_begins_anew() -> None:
    """A fresh book has no state, or an empty one."""
    for nothing in (None, b""):
        handlers = handlers_after(300, StubReader())
        handlers.restore(nothing)
        assert await feed(handlers, bars_of_slice(MARKET, 0)) == []


async def test_account_that_cannot_be_used_costs_the_row_and_not_the_state() -> None:
    """An alarm instead of a row; the market's recursions go on without a hole."""
    handlers = handlers_after(300, StubReader(an_account(equity=Decimal(0))))
    out = await feed(handlers, bars_of_slice(MARKET, 300))
    assert [type(message) for message in out] == [EventReported]
    assert handlers.snapshot() == handlers_after(301, StubReader()).snapshot()


async def test_terms_other_than_the_accounts_stop_a_live_slice() -> None:
    """Tick and lot of other terms would place a stop wrongly."""
    reader = StubReader(an_account(contracts_hash="other"))
    handlers = handlers_after(300, reader)
    bars = bars_of_slice(MARKET, 300)
    with pytest.raises(UnavailableError, match="contracts"):
        await feed(handlers, bars)


async def test_terms_are_read_again_when_they_change() -> None:
    """The venue may change a symbol while we run."""
    reader = StubReader()
    handlers = handlers_after(300, reader)
    await feed(handlers, bars_of_slice(MARKET, 300))
    reader.terms["EURUSD"] = CONTRACTS["EURUSD"].model_copy(update={"min_stop_distance": Decimal("0.0005")})
    reader.of_all = an_account(contracts_hash=contracts_hash(reader.terms))
    out = await feed(handlers, bars_of_slice(MARKET, 301))
    assert isinstance(out[0], FeaturesComputed)
    assert out[0].rows[0].min_stop_distance == Decimal("0.0005")


async def test_account_is_read_by_the_id_that_the_slice_names() -> None:
    """Not the newest one: a replay reads the same."""
    reader = StubReader()
    await features_of(300, reader)
    assert reader.asked == [market_id(bars_of_slice(MARKET, 300)[0].open_time)]
