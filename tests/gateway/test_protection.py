"""Every position of ours has a stop at the venue, or is being repaired or closed; and how positions end."""

from __future__ import annotations

import asyncio
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from services.gateway import session
from services.gateway.orders import Status
from shared.messages import ExecutionKind
from tests.conftest import RedisServer
from tests.gateway.builders import a_closing, a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import a_gateway, a_place, net_pnl
from tests.venue.client import logged_in
from venue.calendar import NEW_YORK
from venue.protocol import messages

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D, E, S = Decimal, ExecutionKind, Status
NARROW = {"stop_distance": D("0.00030"), "target_distance": D("0.00030")}
M5 = 300_000
GUARDED = [E.SENT, E.ACCEPTED, E.FILLED, E.PROTECTED]


@on_loop
async def test_missing_stop_is_set_with_both_levels(tmp_path: Path, valkey: RedisServer) -> None:
    """An amendment with one level alone would remove the other."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        place.withhold("protection")
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        await place.step()
        began_s = asyncio.get_running_loop().time()
        await gateway.reached(request, S.PROTECTED)
        assert asyncio.get_running_loop().time() - began_s < 2.0
        assert gateway.kinds(request) == [E.SENT, E.ACCEPTED, E.FILLED, E.REPAIRING, E.PROTECTED]
        (position,) = place.open_positions(request.client_order_id)
        assert position["stop_points"] == position["entry_points"] - 500
        assert position["target_points"] == position["entry_points"] + 700
        await until_so(lambda: place.has_alarm("no stop at the venue in time"))


@on_loop
async def test_position_whose_stop_is_refused_is_closed(tmp_path: Path, valkey: RedisServer) -> None:
    """The price is already beyond the level: there is nothing to protect any more, only to end."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book, stop_distance=D("0.00001"))
        place.withhold("protection")
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        await place.step()
        await gateway.reached(request, S.CLOSING)
        await place.step_until(lambda: not place.open_positions(request.client_order_id))
        await gateway.reached(request, S.CLOSED)
        assert gateway.kinds(request)[-3:] == [E.REPAIRING, E.CLOSING, E.CLOSED]
        await until_so(lambda: place.has_alarm("no stop can be set, closing"))


@on_loop
async def test_repair_that_a_cut_connection_interrupts_is_taken_up_again(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection dies at the very moment of the amendment: the position must not stay bare."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        place.withhold("protection")
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        opened = gateway.session
        send_amend = opened.send_amend
        monkeypatch.setattr(opened, "send_amend", lambda *a: (opened.link.abort("cut"), send_amend(*a)))
        await place.step()
        await gateway.reached(request, S.PROTECTED)
        assert all(p["stop_points"] is not None for p in place.open_positions(request.client_order_id))


@on_loop
async def test_stop_that_somebody_removes_is_set_again(tmp_path: Path, valkey: RedisServer) -> None:
    """A human at the terminal, a bug at the broker: a position of ours has a stop."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.protected(request)
        (position,) = place.open_positions(request.client_order_id)
        target = (position["target_points"] + 100) / 100_000
        async with logged_in(place.venue.ready) as client:
            amend = messages.ProtoOAAmendPositionSLTPReq(
                ctidTraderAccountId=client.account_id, positionId=position["position_id"], takeProfit=target
            )
            await client.ask(amend)
        stops = lambda: [p["stop_points"] for p in place.open_positions(request.client_order_id)]  # noqa: E731
        assert stops() == [None]
        await until(lambda: stops() == [position["stop_points"]])
        await until(lambda: gateway.kinds(request)[-2:] == [E.REPAIRING, E.PROTECTED])


@on_loop
async def test_bare_position_found_at_a_start_is_protected(tmp_path: Path, valkey: RedisServer) -> None:
    """The process died between the fill and the stop."""
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book)
        place.withhold("protection")
        async with a_gateway(place) as gateway:
            await gateway.place_order(request)
            await until(lambda: place.opening_orders(request))
        await place.step()
        async with a_gateway(place) as gateway:
            await gateway.reached(request, S.PROTECTED)
        (position,) = place.open_positions(request.client_order_id)
        assert position["stop_points"] == position["entry_points"] - 500


# -- closing


@on_loop
async def test_position_that_closed_while_we_were_away_is_closed_with_its_result(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Deals and balance of the venue's own books, to the cent, and the level that was hit."""
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book, **NARROW)
        async with a_gateway(place) as gateway:
            await gateway.protected(request)
        await place.step_until(lambda: not place.open_positions(request.client_order_id), ms=M5)
        (position,) = place.positions(request.client_order_id)
        async with a_gateway(place) as gateway:
            await gateway.reached(request, S.CLOSED)
            closed = gateway.journal.events()[-1]
            assert closed.pnl == net_pnl(place.books(), position["position_id"])
            level = {"STOP": "STOP_LOSS", "TARGET": "TAKE_PROFIT"}[position["close_reason"]]
            assert closed.reason == level
            assert gateway.desk.account is not None
            assert gateway.desk.account.balance == D(place.venue.exchange.matching.balance_cents) / 100


@on_loop
async def test_position_closed_by_hand_while_we_were_away_is_not_called_a_stop(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Between the levels no protective order closes anything."""
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book)
        async with a_gateway(place) as gateway:
            await gateway.protected(request)
        (position,) = place.open_positions(request.client_order_id)
        async with logged_in(place.venue.ready) as client:
            for volume in (400_000, 600_000):  # in two parts
                await client.ask(
                    messages.ProtoOAClosePositionReq(
                        ctidTraderAccountId=client.account_id,
                        positionId=position["position_id"],
                        volume=volume,
                    )
                )
                await place.step()
        async with a_gateway(place) as gateway:
            await gateway.reached(request, S.CLOSED)
            closed = gateway.journal.events()[-1]
            assert closed.reason == "CLOSED_BY_ORDER"
            assert closed.pnl == net_pnl(place.books(), position["position_id"])
            assert closed.balance == D(place.venue.exchange.matching.balance_cents) / 100


@on_loop
async def test_position_that_was_held_for_weeks_is_closed_with_its_result(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The venue's lists are asked week by week: the closing deal may be far from the order."""
    monkeypatch.setattr(session, "_LIST_WINDOW_MS", 3_600_000)  # hours stand for weeks
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book, stop_distance=D("0.20000"), target_distance=D("0.20000"))
        async with a_gateway(place) as gateway:
            await gateway.protected(request)
        await place.venue.exchange.play(place.now_ms + 5 * 3_600_000)
        (position,) = place.open_positions(request.client_order_id)
        async with logged_in(place.venue.ready) as client:
            close = messages.ProtoOAClosePositionReq(
                ctidTraderAccountId=client.account_id, positionId=position["position_id"], volume=1_000_000
            )
            await client.ask(close)
            await place.step_until(lambda: not place.open_positions(request.client_order_id))
        async with a_gateway(place) as gateway:
            await gateway.reached(request, S.CLOSED)
            closed = gateway.journal.events()[-1]
            assert closed.pnl == net_pnl(place.books(), position["position_id"])


@on_loop
async def test_closing_twice_closes_once_and_opens_nothing(tmp_path: Path, valkey: RedisServer) -> None:
    """The executor may ask again; a position has one end."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.protected(request)
        for _ in range(3):
            await gateway.handlers.on_close_requested(a_closing(request))
        await until(lambda: len(place.books()["orders"]) == 3)  # opening, protective, closing
        await place.step_until(lambda: not place.open_positions(request.client_order_id))
        await gateway.reached(request, S.CLOSED)
        await gateway.handlers.on_close_requested(a_closing(request))
        await place.step()
        assert gateway.kinds(request) == [*GUARDED, E.CLOSING, E.CLOSED]
        assert gateway.journal.events()[-1].reason == "CLOSED_BY_ORDER"
        assert len(place.books()["orders"]) == 3
        assert len(place.books()["positions"]) == 1


@on_loop
async def test_closing_that_the_venue_refuses_is_no_storm(tmp_path: Path, valkey: RedisServer) -> None:
    """On Friday evening nothing can be closed until Sunday: asked again, but at a human pace."""
    friday = datetime(2025, 1, 10, 16, 40, tzinfo=NEW_YORK)
    async with (
        a_place(tmp_path, valkey.url, slices=1_500, start=friday) as place,
        a_gateway(place) as gateway,
    ):
        request = a_request(book=place.book, stop_distance=D("0.02000"), target_distance=D("0.02000"))
        await gateway.protected(request)
        await place.venue.exchange.play(int(friday.timestamp() * 1000) + 21 * 60_000)
        for _ in range(3):
            await gateway.handlers.on_close_requested(a_closing(request))
        await asyncio.sleep(2.5)
        assert gateway.status(request) is S.CLOSING
        refusals = place.books()["refusals"]
        assert {refusal["code"] for refusal in refusals} == {"MARKET_CLOSED"}
        assert len(refusals) <= 4


@on_loop
async def test_second_position_under_one_label_is_closed_and_the_first_kept(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """It should never be; if it is, the younger goes, and the order is still open with its stop."""
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book)
        async with a_gateway(place) as gateway:
            await gateway.protected(request)
        async with logged_in(place.venue.ready) as client:
            ids, label = await client.symbol_ids(), request.client_order_id
            await client.ask(client.market_order(ids["EURUSD"], label=label, clientOrderId=label))
            await place.step()
        first, second = place.open_positions(request.client_order_id)
        async with a_gateway(place) as gateway:
            await place.step_until(lambda: len(place.open_positions(request.client_order_id)) == 1)
            await asyncio.sleep(0.1)
            (left,) = place.open_positions(request.client_order_id)
            assert left["position_id"] == first["position_id"]
            assert gateway.status(request) is S.PROTECTED
        assert await place.has_alarm(f"closing {second['position_id']}")
