"""What happened reaches the streams once, in order, whatever becomes of the server; so does the account."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from services.gateway.orders import Status
from shared import streams
from shared.errors import InputError
from shared.messages import Direction, ExecutionKind
from tests.conftest import RedisServer
from tests.gateway.builders import CLOSE, a_closing, a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import Place, a_gateway, a_place, net_pnl, numbers

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D, E, S = Decimal, ExecutionKind, Status
NARROW = {"stop_distance": D("0.00030"), "target_distance": D("0.00030")}
M5 = 300_000
GUARDED = [E.SENT, E.ACCEPTED, E.FILLED, E.PROTECTED]


@on_loop
async def test_account_follows_every_execution_with_its_number(tmp_path: Path, valkey: RedisServer) -> None:
    """Who reads an execution finds the account that includes it."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.protected(request)
        await gateway.handlers.on_close_requested(a_closing(request))
        await asyncio.sleep(0.05)
        await place.step_until(lambda: not place.open_positions(request.client_order_id))
        await gateway.reached(request, S.CLOSED)
        await gateway.published()
        executions = await place.executions()
        accounts = [a for a in await place.accounts() if a.cause == "execution"]
        assert numbers(executions) == list(range(1, 7))
        assert [a.execution_number for a in accounts] == numbers(executions)
        open_positions = [len(a.positions) for a in accounts]
        assert open_positions == [0, 0, 1, 1, 1, 0]
        assert accounts[-1].balance == D(place.venue.exchange.matching.balance_cents) / 100


@on_loop
async def test_balance_is_the_venues_to_the_cent_after_many_trades(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Every result is the venue's own, net of swap and both commissions."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        requests = []
        for turn in range(6):
            symbol = ("EURUSD", "XAUUSD")[turn % 2]
            narrow = (
                NARROW if symbol == "EURUSD" else {"stop_distance": D("1.5"), "target_distance": D("1.5")}
            )
            direction = (Direction.LONG, Direction.SHORT)[turn // 2 % 2]
            close = CLOSE + timedelta(minutes=5 * turn)
            request = a_request(symbol, book=place.book, close=close, direction=direction, **narrow)
            requests.append(request)
            await gateway.place_order(request)
            await until(lambda r=request: place.opening_orders(r))
            await place.step_until(lambda r=request: place.positions(r.client_order_id))
            await place.step_until(lambda r=request: not place.open_positions(r.client_order_id), ms=M5)
            await gateway.reached(request, S.CLOSED)
        books = place.books()
        for request in requests:
            (position,) = place.positions(request.client_order_id)
            closed = gateway.journal.events_of(request.client_order_id)[-1]
            assert closed.pnl == net_pnl(books, position["position_id"])
            assert closed.reason == {"STOP": "STOP_LOSS", "TARGET": "TAKE_PROFIT"}[position["close_reason"]]
        assert gateway.desk.account is not None
        assert gateway.desk.account.balance == D(place.venue.exchange.matching.balance_cents) / 100
        results = [gateway.desk.account.history(symbol).results for symbol in ("EURUSD", "XAUUSD")]
        assert all(sum(result != 0 for result in each) == 3 for each in results)


@on_loop
async def test_balance_that_moved_while_we_were_away_is_known(tmp_path: Path, valkey: RedisServer) -> None:
    """A foreign position closed, money came in: the account is what the venue says it is."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        gateway.cut()
        exchange = place.venue.exchange
        exchange.matching.deposit(12_345, exchange.now_ms)
        exchange.ledger.write(exchange.matching.take_changes(), exchange.now_ms)
        await until(gateway.is_online)
        await until(lambda: gateway.desk.account and gateway.desk.account.balance == D("10123.45"))


@on_loop
async def test_executions_are_published_once_and_in_order_over_an_outage(
    tmp_path: Path, own_valkey: RedisServer
) -> None:
    """The journal is the outbox: the server comes back and reads on where it was."""
    async with a_place(tmp_path, own_valkey.url) as place, a_gateway(place) as gateway:
        euro, gold = a_request(book=place.book), a_request("XAUUSD", book=place.book)
        await gateway.protected(euro)
        await gateway.published()
        own_valkey.kill()
        await gateway.protected(gold)
        await gateway.handlers.on_close_requested(a_closing(euro))
        await asyncio.sleep(0.05)
        await place.step_until(lambda: not place.open_positions(euro.client_order_id))
        await gateway.reached(euro, S.CLOSED)
        own_valkey.start()
        await gateway.published()
        executions = await place.executions()
        assert numbers(executions) == list(range(1, gateway.journal.last_number() + 1))
        assert executions == gateway.journal.events()


@on_loop
async def test_bare_position_gets_its_stop_and_slices_go_on_while_redis_is_away(
    tmp_path: Path, own_valkey: RedisServer
) -> None:
    """A slice that cannot be written must not keep the gateway from hearing of a fill."""
    async with a_place(tmp_path, own_valkey.url) as place, a_gateway(place) as gateway:
        own_valkey.kill()
        await place.step(3 * M5)  # slices close
        request = a_request(book=place.book)
        place.withhold("protection")
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        await place.step()
        await gateway.reached(request, S.PROTECTED, within_s=2)
        (position,) = place.open_positions(request.client_order_id)
        assert position["stop_points"] is not None
        await place.step(3 * M5)
        own_valkey.start()
        await gateway.published()
        await until_so(lambda: place.has_live_slices(6))
        bars = await place.bars()
        opens = sorted({bar.open_time for bar in bars})
        assert opens == [opens[0] + k * timedelta(minutes=5) for k in range(len(opens))]
        accounts = [entry_id for entry_id, _ in await place.history(streams.ACCOUNT)]
        assert {bar.account_id for bar in bars} <= set(accounts)
        assert numbers(await place.executions()) == list(range(1, gateway.journal.last_number() + 1))


@pytest.mark.parametrize("how", ["next execution", "next slice", "restart"])
@on_loop
async def test_executions_that_redis_lost_are_written_again(
    tmp_path: Path, valkey: RedisServer, how: str
) -> None:
    """The server came back older than it was: the journal knows better."""
    async with a_place(tmp_path, valkey.url) as place:
        euro, gold = a_request(book=place.book), a_request("XAUUSD", book=place.book)
        async with a_gateway(place) as gateway:
            await gateway.protected(euro)
            await gateway.published()
            client = await place.read()
            for entry_id, event in (await place.history(streams.EXECUTIONS))[-2:]:
                await client.xdel(place.key("executions"), entry_id)
                await client.set(place.key("executions:number"), event.number - 1)
            await client.set(place.key("executions:number"), 2)
            await client.aclose()
            if how == "next execution":
                await gateway.protected(gold)
            elif how == "next slice":
                await place.step(M5 + 1_000)
            if how != "restart":
                await gateway.published()
        if how == "restart":
            async with a_gateway(place) as gateway:
                await gateway.published()
        events = await place.executions()
        assert numbers(events) == list(range(1, len(events) + 1))
        assert len(events) >= 4


@on_loop
async def test_journal_that_is_older_than_the_stream_is_refused(tmp_path: Path, valkey: RedisServer) -> None:
    """Another volume was mounted: its numbers were given before, and its orders would be forgotten."""
    async with a_place(tmp_path, valkey.url) as place:
        async with a_gateway(place) as gateway:
            await gateway.protected(a_request(book=place.book))
            await gateway.published()
        place.folder = tmp_path / "another"
        with pytest.raises(InputError, match="GATEWAY_JOURNAL"):
            async with a_gateway(place):
                pass


@on_loop
async def test_peak_and_past_trades_survive_a_restart(tmp_path: Path, valkey: RedisServer) -> None:
    """Drawdown is measured from the highest equity ever seen, and the risk model sees its own past."""
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book, **NARROW)
        async with a_gateway(place) as gateway:
            await gateway.protected(request)
            await place.step_until(lambda: not place.open_positions(request.client_order_id), ms=M5)
            await gateway.reached(request, S.CLOSED)
            assert gateway.desk.account is not None
            gateway.desk.account.peak_equity = D("12345.67")
            await gateway.desk.remember_peak()
            before = gateway.desk.account
        async with a_gateway(place) as gateway:
            after = gateway.desk.account
            assert after is not None
            assert (after.peak_equity, after.initial_equity) == (D("12345.67"), D("10000.00"))
            assert (after.results, after.risk_actions) == (before.results, before.risk_actions)
            assert len(after.results["EURUSD"]) == 1


@on_loop
async def test_gateway_that_has_lost_its_lease_sends_nothing(tmp_path: Path, valkey: RedisServer) -> None:
    """Its own clock says that another may be active by now: journalled, not sent, and told as such."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        deadline_s, gateway.bus._deadline_s = gateway.bus._deadline_s, 0.0
        await gateway.handlers.on_order_requested(request)
        gateway.bus._deadline_s = deadline_s
        await gateway.reached(request, S.NOT_SENT)
        await place.step()
        assert place.books()["orders"] == []


@on_loop
async def test_event_that_does_not_fit_is_an_alarm_and_leaves_the_order(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """The venue is asked, nothing is guessed."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.protected(request)
        await gateway.desk.record(request, E.ACCEPTED)
        assert gateway.status(request) is S.PROTECTED
        assert gateway.kinds(request) == GUARDED
        await until_so(lambda: place.has_alarm("ACCEPTED cannot follow PROTECTED"))


@on_loop
async def test_failure_in_the_background_ends_the_gateway(tmp_path: Path, valkey: RedisServer) -> None:
    """A repair that dies of a bug must not die unheard."""
    async with a_place(tmp_path, valkey.url) as place:
        with pytest.raises(ExceptionGroup) as caught:
            await die_of_a_bug(place)
        assert caught.group_contains(TypeError)


async def die_of_a_bug(place: Place) -> None:
    async with a_gateway(place) as gateway:
        request = a_request(book=place.book)
        place.withhold("protection")
        gateway.session.send_amend = None  # type: ignore[assignment, method-assign]
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        await place.step()
        await asyncio.sleep(2)
