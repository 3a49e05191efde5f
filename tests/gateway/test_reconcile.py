"""What nobody told us of is found in the venue's books: whatever dies, and whenever, at most one order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from services.gateway import reconcile, session
from services.gateway.connection import Retry
from services.gateway.orders import Status
from services.gateway.translate import OrderFound
from shared.messages import ExecutionKind
from tests.conftest import RedisServer
from tests.gateway.builders import a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import a_gateway, a_place, net_pnl
from tests.venue.client import logged_in
from venue.protocol import messages

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D = Decimal
E = ExecutionKind
S = Status
NARROW = {"stop_distance": D("0.00030"), "target_distance": D("0.00030")}
M5 = 300_000
GUARDED = [E.SENT, E.ACCEPTED, E.FILLED, E.PROTECTED]


@on_loop
async def test_crash_between_journal_and_wire_ends_as_not_sent(tmp_path: Path, valkey: RedisServer) -> None:
    """Journalled is as good as sent: the venue's books decide, asked twice, and nothing is sent again."""
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book)
        async with a_gateway(place) as gateway:
            await gateway.journal.begin([request], place.now_ms)  # and the process dies here
        place.patience = replace(place.patience, absent_after_s=1.0)
        async with a_gateway(place) as gateway:
            await gateway.reached(request, S.UNKNOWN)
            await gateway.place_order(request)
            await asyncio.sleep(0.5)
            assert gateway.status(request) is S.UNKNOWN
            await gateway.reached(request, S.NOT_SENT)
            assert gateway.kinds(request) == [E.UNKNOWN, E.NOT_SENT]
            await gateway.place_order(request)
            await place.step()
        assert place.books()["orders"] == []


@pytest.mark.parametrize("filled_while_away", [True, False])
@on_loop
async def test_order_whose_connection_is_cut_is_found_at_the_venue(
    tmp_path: Path, valkey: RedisServer, filled_while_away: bool
) -> None:
    """The bytes arrived, the answer did not: adopted with its stop, never sent again."""
    async with a_place(tmp_path, valkey.url) as place:
        place.retry = Retry(0.3, 6)
        place.patience = replace(place.patience, order_answer_s=1.0)
        async with a_gateway(place) as gateway:
            request = a_request(book=place.book)
            place.fault("order_unanswered")
            await gateway.place_order(request)
            await until(lambda: place.opening_orders(request))
            gateway.cut()
            if filled_while_away:
                await place.step()
            await until(gateway.is_online)
            await place.step()
            await gateway.reached(request, S.PROTECTED)
            kinds = gateway.kinds(request)
            assert kinds == [E.SENT, E.FILLED, E.PROTECTED] or kinds == GUARDED
        assert len(place.opening_orders(request)) == 1


@pytest.mark.parametrize("fault", ["accept_lost", "fill_lost", "order_unanswered"])
@on_loop
async def test_order_that_the_venue_is_silent_about_is_found_in_its_books(
    tmp_path: Path, valkey: RedisServer, fault: str
) -> None:
    """Accepted is not filled, and silence is neither: the gateway asks, and sends nothing again."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        place.fault(fault)
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        await place.step()
        await gateway.reached(request, S.PROTECTED)
        assert len(place.opening_orders(request)) == 1
        (position,) = place.positions(request.client_order_id)
        filled = next(e for e in gateway.journal.events() if e.kind is E.FILLED)
        assert filled.position_id == position["position_id"]


@on_loop
async def test_order_that_was_filled_and_closed_unheard_is_closed_with_its_result(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """The word of the fill was lost and the stop came first: the symbol must not stay locked for ever."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book, **NARROW)
        place.fault("fill_lost")
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        await place.step_until(lambda: place.positions(request.client_order_id))
        await place.step_until(lambda: not place.open_positions(request.client_order_id), ms=M5)
        await gateway.reached(request, S.CLOSED)
        (position,) = place.positions(request.client_order_id)
        closed = gateway.journal.events_of(request.client_order_id)[-1]
        assert closed.pnl == net_pnl(place.books(), position["position_id"])


@on_loop
async def test_order_that_was_taken_for_not_sent_is_adopted_when_it_shows_up(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """It should not be; if it is, it is protected and told, not ignored."""
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book)
        async with a_gateway(place) as gateway:
            await gateway.journal.begin([request], place.now_ms)
        async with a_gateway(place) as gateway:
            await gateway.reached(request, S.NOT_SENT)
            async with logged_in(place.venue.ready) as client:
                ids = await client.symbol_ids()
                label = request.client_order_id
                await client.ask(client.market_order(ids["EURUSD"], label=label, clientOrderId=label))
                await place.step()
            await gateway.reached(request, S.PROTECTED)
            (position,) = place.open_positions(request.client_order_id)
            assert position["stop_points"] == position["entry_points"] - 500
        await until_so(lambda: place.has_alarm("was NOT_SENT, and is"))


@on_loop
async def test_order_that_was_rejected_and_lived_unheard_is_told_with_its_result(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """The venue fills what it has rejected, and it is over before anybody listens."""
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book, **NARROW)
        async with a_gateway(place) as gateway:
            await gateway.place_order(request)
            await gateway.reached(request, S.ACCEPTED)
            await gateway.desk.executions.record(request, E.REJECTED, reason="as the venue said")
        await place.step_until(lambda: place.positions(request.client_order_id), ms=100)
        await place.step_until(lambda: not place.open_positions(request.client_order_id))
        async with a_gateway(place) as gateway:
            await gateway.reached(request, S.CLOSED)
            assert gateway.kinds(request)[2:] == [E.REJECTED, E.FILLED, E.CLOSED]
            (position,) = place.positions(request.client_order_id)
            assert gateway.journal.events()[-1].pnl == net_pnl(place.books(), position["position_id"])


@on_loop
async def test_order_that_the_books_do_not_know_either_is_looked_up_once(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejections are frequent: each costs the venue one look, not one whenever books are compared."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book, volume_units=D("10000000"))
        await gateway.place_order(request)
        await gateway.reached(request, S.REJECTED)
        looks: list[int] = []
        orders_since = session.Session.orders_since

        async def counted(of: session.Session, from_ms: int, to_ms: int) -> list[OrderFound]:
            looks.append(from_ms)
            return await orders_since(of, from_ms, to_ms)

        monkeypatch.setattr(session.Session, "orders_since", counted)
        for _ in range(3):
            await gateway.desk.reconcile.now()
        assert len(looks) == 1
        assert gateway.kinds(request) == [E.SENT, E.REJECTED]


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
            assert gateway.desk.account.model.balance == D(place.venue.exchange.matching.balance_cents) / 100


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


@on_loop
async def test_balance_that_moved_while_we_were_away_is_known(tmp_path: Path, valkey: RedisServer) -> None:
    """A foreign position closed, money came in: the account is what the venue says it is."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        gateway.cut()
        exchange = place.venue.exchange
        exchange.matching.deposit(12_345, exchange.now_ms)
        exchange.ledger.write(exchange.matching.take_changes(), exchange.now_ms)
        await until(gateway.is_online)
        await until(lambda: gateway.desk.account.model.balance == D("10123.45"))


@on_loop
async def test_foreign_position_is_told_once(tmp_path: Path, valkey: RedisServer) -> None:
    """Its symbol is locked: whoever wonders why nothing is traded finds the reason."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        async with logged_in(place.venue.ready) as client:
            ids = await client.symbol_ids()
            await client.ask(client.market_order(ids["EURUSD"], label="by hand"))
            await place.step()
        await until_so(lambda: place.has_alarm("EURUSD is locked by it"))
        await gateway.desk.reconcile.now()
        assert sum("is locked by it" in text for text in await place.alarms()) == 1
        (position,) = place.open_positions("by hand")
        assert position["stop_points"] is None


@pytest.mark.parametrize("has_stop", [True, False])
@on_loop
async def test_position_with_our_label_that_the_journal_does_not_know_is_never_left_bare(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch, has_stop: bool
) -> None:
    """Its levels are known to nobody: with its own stop it stays, without one it is closed."""
    monkeypatch.setattr(reconcile, "BARE_UNKNOWN_S", 0.2)
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        label = a_request(book=place.book).client_order_id
        levels = {"relativeStopLoss": 500, "relativeTakeProfit": 700} if has_stop else {}
        async with logged_in(place.venue.ready) as client:
            ids = await client.symbol_ids()
            await client.ask(client.market_order(ids["EURUSD"], label=label, clientOrderId=label, **levels))
            await place.step()
        await until_so(lambda: place.has_alarm("that the journal does not know"))
        if has_stop:
            await gateway.desk.reconcile.now()
            await place.step()
            assert len(place.open_positions(label)) == 1
        else:
            await place.step_until(lambda: not place.open_positions(label))


@on_loop
async def test_question_about_the_books_that_is_lost_is_asked_again_within_seconds(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """A position whose fill nobody told has no stop yet, and waits for the answer."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.place_order(request)
        await gateway.reached(request, S.ACCEPTED)
        unanswered = place.fault("request_unanswered", message="ProtoOAReconcileReq")
        place.fault("execution_lost")
        await place.step_until(lambda: place.positions(request.client_order_id), ms=100)
        await gateway.reached(request, S.FILLED, S.PROTECTED, within_s=6)
        assert unanswered.fired == 1
