"""An order request's path on a real venue: sent once as it was asked for, or not at all."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.gateway.connection import Retry
from services.gateway.orders import Status
from shared import streams
from shared.errors import UnavailableError
from shared.messages import Command, CommandGiven, Direction, ExecutionKind, Meta
from tests.conftest import RedisServer
from tests.gateway.builders import CLOSE, a_closing, a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import a_gateway, a_place
from tests.venue.client import logged_in
from venue.calendar import NEW_YORK

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D = Decimal
E = ExecutionKind
S = Status
GUARDED = [E.SENT, E.ACCEPTED, E.FILLED, E.PROTECTED]


@on_loop
async def test_order_is_sent_once_though_its_request_comes_twice(tmp_path: Path, valkey: RedisServer) -> None:
    """A handler that dies before its commit runs again; the journal knows what has left."""
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book)
        async with a_gateway(place) as gateway:
            await gateway.place_order(request)
            await gateway.place_order(request)
            await until(lambda: place.opening_orders(request))
            await place.step()
            await gateway.reached(request, S.PROTECTED)
            await gateway.place_order(request)
            assert gateway.kinds(request) == GUARDED
        async with a_gateway(place) as gateway:
            await gateway.place_order(request)
            await place.step()
        assert len(place.opening_orders(request)) == 1
        assert len(place.positions(request.client_order_id)) == 1


@on_loop
async def test_what_is_sent_is_what_was_asked_for(tmp_path: Path, valkey: RedisServer) -> None:
    """Side, volume in cents of a unit, both levels from the fill, the id as label and client order id."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request("XAUUSD", book=place.book, direction=Direction.SHORT, volume_units=D(7))
        await gateway.protected(request)
        (order,) = place.opening_orders(request)
        (position,) = place.positions(request.client_order_id)
        assert (order["side"], order["volume_cents"], order["label"]) == (
            "SELL",
            700,
            request.client_order_id,
        )
        assert position["stop_points"] == position["entry_points"] + 2_000_000
        assert position["target_points"] == position["entry_points"] - 3_000_000
        await gateway.published()
        *_, filled, protected = await place.executions()
        entry = D(position["entry_points"]) / 100_000
        assert (filled.price, filled.volume_units, filled.position_id) == (
            entry,
            D(7),
            position["position_id"],
        )
        assert (protected.stop_loss_price, protected.take_profit_price) == (entry + 20, entry - 30)


@on_loop
async def test_orders_that_were_read_together_are_journalled_together_and_leave_at_once(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is waited for once, before the first byte; what happened is written once, after the last."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        euro, gold = a_request(book=place.book), a_request("XAUUSD", book=place.book)
        story: list[str] = []
        write, send = gateway.journal._write, gateway.session.send_market_order

        async def written(statement: Any) -> None:
            await write(statement)
            story.append("disk")

        def sent(order: str, *rest: Any, **more: Any) -> None:
            story.append("bytes")
            assert gateway.status(euro) is gateway.status(gold) is S.SENDING
            send(order, *rest, **more)

        monkeypatch.setattr(gateway.journal, "_write", written)
        monkeypatch.setattr(gateway.session, "send_market_order", sent)
        await gateway.handle(euro, gold)
        first = story.index("bytes")
        assert story[first - 1 : first + 3] == ["disk", "bytes", "bytes", "disk"]
        await until(lambda: place.opening_orders(euro) and place.opening_orders(gold))
        await place.step()
        await gateway.reached(euro, S.PROTECTED)
        await gateway.reached(gold, S.PROTECTED)
        assert len(place.opening_orders(euro)) == len(place.opening_orders(gold)) == 1


@on_loop
async def test_of_requests_that_were_read_together_each_has_its_own_fate(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """One that is known, one that is refused, two of one symbol: nobody takes the others along."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        known = a_request(book=place.book)
        await gateway.handle(known)
        gold = a_request("XAUUSD", book=place.book)
        second = a_request("XAUUSD", book=place.book, close=CLOSE + timedelta(minutes=5))
        bad = a_request("GBPUSD", book=place.book)
        await gateway.handle(known, gold, second, bad)
        assert [gateway.kinds(r)[:1] for r in (known, gold, second, bad)] == [
            [E.SENT],
            [E.SENT],
            [E.REFUSED],
            [E.REFUSED],
        ]
        reasons = [gateway.journal.events_of(r.client_order_id)[0].reason for r in (second, bad)]
        assert reasons == ["ASSET_LOCKED", "UNKNOWN_SYMBOL"]
        await until(lambda: place.opening_orders(gold))
        assert len(place.opening_orders(known)) == len(place.opening_orders(gold)) == 1
        assert place.opening_orders(second) == []


@on_loop
async def test_closing_finds_the_order_that_was_read_with_it(tmp_path: Path, valkey: RedisServer) -> None:
    """A stop that was given behind a request must not miss what the request opens."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.handlers.on_order_requested(request)
        await gateway.handlers.on_close_requested(a_closing(request))
        assert gateway.kinds(request)[0] is E.SENT


@on_loop
async def test_two_symbols_trade_side_by_side(tmp_path: Path, valkey: RedisServer) -> None:
    """One lock a symbol, not one for all."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        euro, gold = a_request(book=place.book), a_request("XAUUSD", book=place.book)
        await gateway.place_order(euro)
        await gateway.place_order(gold)
        await until(lambda: place.opening_orders(gold))
        await place.step()
        await gateway.reached(euro, S.PROTECTED)
        await gateway.reached(gold, S.PROTECTED)


@on_loop
async def test_gateway_that_has_lost_its_lease_sends_nothing(tmp_path: Path, valkey: RedisServer) -> None:
    """Its own clock says that another may be active by now: journalled, not sent, and told as such."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        deadline_s, gateway.bus._deadline_s = gateway.bus._deadline_s, 0.0
        await gateway.handle(request)
        gateway.bus._deadline_s = deadline_s
        await gateway.reached(request, S.NOT_SENT)
        await place.step()
        assert place.books()["orders"] == []


@on_loop
async def test_request_whose_time_has_passed_expires_unsent(tmp_path: Path, valkey: RedisServer) -> None:
    """An old decision is not a decision."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        now = streams.from_milliseconds(gateway.timing.now_ms())
        request = a_request(book=place.book, valid_until=now)
        await gateway.place_order(request)
        assert gateway.kinds(request) == [E.EXPIRED]
        assert place.books()["orders"] == []


@on_loop
async def test_request_waits_for_the_connection_as_long_as_it_is_worth(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """A short cut costs no trade, a long one is no reason to trade late."""
    async with a_place(tmp_path, valkey.url) as place:
        place.retry = Retry(0.3, 6)
        async with a_gateway(place) as gateway:
            soon = streams.from_milliseconds(gateway.timing.now_ms() + 100)
            gateway.cut()
            lost = a_request("XAUUSD", book=place.book, valid_until=soon)
            await gateway.place_order(lost)
            assert gateway.kinds(lost) == [E.EXPIRED]
            kept = a_request(book=place.book)
            await gateway.place_order(kept)
            assert gateway.kinds(kept)[0] is E.SENT


@pytest.mark.parametrize("command", [Command.PAUSE, Command.FLATTEN, Command.HALT])
@on_loop
async def test_operators_stop_holds_at_the_gateway_too(
    tmp_path: Path, valkey: RedisServer, command: Command
) -> None:
    """A request that was queued before the stop is refused after it, over a restart too."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request, later = a_request(book=place.book), a_request("XAUUSD", book=place.book)
        given = CommandGiven(meta=Meta.root("c", CLOSE), command=command, who="me", why="test")
        await gateway.handlers.on_command(given)
        gateway.handlers.restore(gateway.handlers.snapshot())
        await gateway.place_order(request)
        (event,) = gateway.journal.events()
        assert (event.kind, event.reason) == (E.REFUSED, f"CONTROL_{command.name}")
        await gateway.handlers.on_command(given.model_copy(update={"command": Command.RESUME}))
        await gateway.place_order(later)
        assert gateway.kinds(later)[0] is E.SENT


@on_loop
async def test_stop_given_while_a_request_waited_for_the_connection_comes_first(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """What was in hand goes back to the stream, where commands are read before it."""
    async with a_place(tmp_path, valkey.url) as place:
        place.retry = Retry(0.5, 6)
        async with a_gateway(place) as gateway:
            gateway.cut()
            await until(lambda: not gateway.desk.line.up.is_set())
            request = a_request(book=place.book)
            with pytest.raises(UnavailableError, match="the connection is back"):
                await gateway.handle(request)
            given = CommandGiven(meta=Meta.root("c", CLOSE), command=Command.HALT, who="me", why="test")
            await gateway.handlers.on_command(given)
            await gateway.place_order(request)
            assert gateway.kinds(request) == [E.REFUSED]
            assert place.books()["orders"] == []


@pytest.mark.parametrize("saved", [None, b"resume"])
@on_loop
async def test_stop_that_the_server_has_lost_still_holds(
    tmp_path: Path, valkey: RedisServer, saved: bytes | None
) -> None:
    """Redis may come back older than the stop; only a command that is given later lifts it."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        given = CommandGiven(meta=Meta.root("c", CLOSE), command=Command.PAUSE, who="me", why="test")
        await gateway.handlers.on_command(given)
        gateway.handlers.restore(saved)
        request, later = a_request(book=place.book), a_request("XAUUSD", book=place.book)
        await gateway.place_order(request)
        (event,) = gateway.journal.events()
        assert (event.kind, event.reason) == (E.REFUSED, "CONTROL_PAUSE")
        await gateway.handlers.on_command(given.model_copy(update={"command": Command.RESUME}))
        gateway.handlers.restore(saved)
        await gateway.place_order(later)
        assert gateway.kinds(later)[0] is E.SENT


@on_loop
async def test_halt_file_stops_orders_without_redis(tmp_path: Path, valkey: RedisServer) -> None:
    """`touch` is the last resort."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        (tmp_path / "HALT").touch()
        request = a_request(book=place.book)
        await gateway.place_order(request)
        (event,) = gateway.journal.events()
        assert (event.kind, event.reason) == (E.REFUSED, "HALT_FILE")
        assert place.books()["orders"] == []


@on_loop
async def test_foreign_position_locks_its_symbol_and_is_never_touched(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """It is counted, watched, and belongs to somebody else."""
    async with a_place(tmp_path, valkey.url) as place:
        async with logged_in(place.venue.ready) as client:
            ids = await client.symbol_ids()
            await client.ask(client.market_order(ids["EURUSD"], label="by hand"))
            await place.step()
        async with a_gateway(place) as gateway:
            request, other = a_request(book=place.book), a_request("XAUUSD", book=place.book)
            await gateway.place_order(request)
            (event,) = gateway.journal.events()
            assert (event.kind, event.reason) == (E.REFUSED, "ASSET_LOCKED")
            await gateway.protected(other)
            await gateway.published()
        foreign = [p for p in (await place.accounts())[-1].positions if p.client_order_id is None]
        assert [p.symbol for p in foreign] == ["EURUSD"]
        (position,) = place.positions("by hand")
        assert (position["status"], position["stop_points"]) == ("OPEN", None)


@on_loop
async def test_symbol_is_locked_while_an_order_is_unknown(tmp_path: Path, valkey: RedisServer) -> None:
    """A second order beside one that may exist would be the double that is not allowed."""
    async with a_place(tmp_path, valkey.url) as place:
        place.patience = replace(place.patience, absent_after_s=60)
        request, second = (
            a_request(book=place.book),
            a_request(book=place.book, close=CLOSE + timedelta(minutes=5)),
        )
        async with a_gateway(place) as gateway:
            await gateway.journal.begin([request], place.now_ms)
        async with a_gateway(place) as gateway:
            await gateway.reached(request, S.UNKNOWN)
            await gateway.place_order(second)
            assert gateway.kinds(second) == [E.REFUSED]
        assert place.books()["orders"] == []


@on_loop
async def test_closed_market_gets_no_order(tmp_path: Path, valkey: RedisServer) -> None:
    """On Friday evening the venue would refuse; the schedule that it gave us says so before."""
    friday = datetime(2025, 1, 10, 16, 40, tzinfo=NEW_YORK)
    async with (
        a_place(tmp_path, valkey.url, slices=1_500, start=friday) as place,
        a_gateway(place) as gateway,
    ):
        await place.venue.exchange.play(int(friday.timestamp() * 1000) + 15 * 60_000)
        last_ms = place.now_ms
        await until(lambda: gateway.timing.now_ms() >= last_ms - 60_000)
        gateway.timing.stamp(int(friday.timestamp() * 1000) + 20 * 60_000)
        request = a_request(book=place.book)
        await gateway.place_order(request)
        (event,) = gateway.journal.events()
        assert (event.kind, event.reason) == (E.REFUSED, "MARKET_CLOSED")
        assert place.books()["orders"] == place.books()["refusals"] == []


@on_loop
async def test_netted_account_is_watched_and_not_traded(tmp_path: Path, valkey: RedisServer) -> None:
    """Orders of others would merge with ours: slices and account go on, every request is refused."""
    async with (
        a_place(tmp_path, valkey.url, accounts=("demo-netted",)) as place,
        a_gateway(place) as gateway,
    ):
        await until_so(lambda: place.has_alarm("ACCOUNT_NETTED: no order will be sent"))
        request = a_request(book=place.book)
        await gateway.place_order(request)
        (event,) = gateway.journal.events()
        assert (event.kind, event.reason) == (E.REFUSED, "ACCOUNT_NETTED")
        await place.step(2 * 300_000)
        await until_so(lambda: place.has_live_slices(2))
        assert place.books()["orders"] == []
