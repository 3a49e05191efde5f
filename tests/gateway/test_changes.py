"""What changes without an order of anybody: the next decision is made by what holds now."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.gateway.protocol import model, oa
from shared.contracts import Contract
from shared.messages import ExecutionKind
from tests.conftest import RedisServer
from tests.gateway.builders import CLOSE, a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import Gateway, Place, a_gateway, a_place
from venue.book import CONTRACTS

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D, E = Decimal, ExecutionKind


def tell(gateway: Gateway, message: Any) -> None:
    gateway.desk.changes.take(message)


def symbol_changed(gateway: Gateway, symbol: str) -> Any:
    (symbol_id,) = [number for number, c in gateway.session.by_id.items() if c.symbol == symbol]
    return oa.ProtoOASymbolChangedEvent(ctidTraderAccountId=1, symbolId=[symbol_id, 999_999])


async def published_minimum(place: Place) -> Decimal:
    client = await place.read()
    try:
        text = await client.hget(place.key("symbols"), "EURUSD")
        return Contract.model_validate_json(text).min_volume_units
    finally:
        await client.aclose()


@on_loop
async def test_changed_terms_are_read_again_published_and_kept(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order by the old terms would be refused by the venue: it is refused here, and told why."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        dearer = CONTRACTS["EURUSD"].model_copy(update={"min_volume_units": D(50_000)})
        monkeypatch.setitem(CONTRACTS, "EURUSD", dearer)
        tell(gateway, symbol_changed(gateway, "EURUSD"))
        await until(lambda: gateway.session.contracts["EURUSD"].min_volume_units == D(50_000))
        await until_so(lambda: place.has_alarm("min_volume_units 1000 is 50000 now"))
        assert await published_minimum(place) == D(50_000)
        assert gateway.desk.account.model.contracts["EURUSD"].min_volume_units == D(50_000)
        request = a_request(book=place.book)
        await gateway.place_order(request)
        (event,) = gateway.journal.events()
        assert (event.kind, event.reason) == (E.REFUSED, "VOLUME_TOO_SMALL: 10000 of at least 50000")
        assert place.books()["orders"] == place.books()["refusals"] == []


@on_loop
async def test_account_that_becomes_one_that_we_do_not_trade_gets_no_more_orders(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Nothing crashes: bars and account go on, and every request is refused with the reason."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        asset = next(n for n, name in gateway.session._assets.items() if name == "USD")
        netted = model.ProtoOATrader(
            ctidTraderAccountId=1,
            balance=900_000,
            moneyDigits=2,
            depositAssetId=asset,
            leverageInCents=3_000,
            accountType=model.NETTED,
        )
        tell(gateway, oa.ProtoOATraderUpdatedEvent(ctidTraderAccountId=1, trader=netted))
        assert gateway.desk.account.model.balance == D(9_000)
        request, later = a_request(book=place.book), a_request("XAUUSD", book=place.book)
        await gateway.place_order(request)
        await gateway.place_order(later)
        assert [(e.kind, e.reason) for e in gateway.journal.events()] == [(E.REFUSED, "ACCOUNT_NETTED")] * 2
        assert place.books()["orders"] == []
        await gateway.desk.reconcile.now()  # the venue's own word
        again = a_request(book=place.book, close=CLOSE + timedelta(minutes=5))
        await gateway.place_order(again)
        assert gateway.kinds(again)[0] is E.SENT


@on_loop
async def test_amount_that_comes_without_its_digits_is_asked_for(tmp_path: Path, valkey: RedisServer) -> None:
    """The account is told unasked, and not how: it stays as it was until the venue's books are read."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        before = gateway.desk.account.model.balance
        gateway.desk.line.books_asked.clear()
        asset = next(n for n, name in gateway.session._assets.items() if name == "USD")
        trader = model.ProtoOATrader(ctidTraderAccountId=1, balance=900_000, depositAssetId=asset)
        tell(gateway, oa.ProtoOATraderUpdatedEvent(ctidTraderAccountId=1, trader=trader))
        assert gateway.desk.account.model.balance == before
        assert gateway.desk.line.books_asked.is_set()


@on_loop
async def test_moved_stop_and_margin_are_followed(tmp_path: Path, valkey: RedisServer) -> None:
    """A trailing stop moves without an execution event, and so does the margin of a position."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.protected(request)
        (position,) = gateway.desk.account.model.positions.values()
        tell(
            gateway,
            oa.ProtoOATrailingSLChangedEvent(
                ctidTraderAccountId=1,
                positionId=position.position_id,
                orderId=1,
                stopPrice=1.01234,
                utcLastUpdateTimestamp=place.now_ms,
            ),
        )
        tell(
            gateway,
            oa.ProtoOAMarginChangedEvent(
                ctidTraderAccountId=1, positionId=position.position_id, usedMargin=4_321, moneyDigits=2
            ),
        )
        (moved,) = gateway.desk.account.model.positions.values()
        assert (moved.stop_loss_price, moved.used_margin) == (D("1.01234"), D("43.21"))


@on_loop
async def test_margin_call_is_an_alarm(tmp_path: Path, valkey: RedisServer) -> None:
    """The next step of the venue is to close positions."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        call = model.ProtoOAMarginCall(marginCallType=61, marginLevelThreshold=70.0)
        tell(gateway, oa.ProtoOAMarginCallTriggerEvent(ctidTraderAccountId=1, marginCall=call))
        await until_so(lambda: place.has_alarm("the margin level is below 70 %"))
