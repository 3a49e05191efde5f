"""What happened reaches the streams once and in order, whatever becomes of the server."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway.orders import Status
from shared import streams
from shared.errors import InputError
from tests.conftest import RedisServer
from tests.gateway.builders import a_closing, a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import a_gateway, a_place, numbers

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

S = Status
M5 = 300_000


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
        place.fault("protection_missing")
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
async def test_request_is_written_again_although_its_executions_were_kept(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """One that was lost and written again stands behind its executions: the next loss may take it alone."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.protected(request)
        await gateway.published()
        client = await place.read()
        decided = streams.market_id(request.meta.event_time)
        await client.hset(place.key("marks:executor"), place.key("signals"), decided)
        entry_id, event = (await place.history(streams.EXECUTIONS))[-1]
        await client.xdel(place.key("executions"), entry_id)
        await client.set(place.key("executions:number"), event.number - 1)
        await client.aclose()
        await place.step(M5 + 1_000)

        async def is_there() -> bool:
            return request in [message for _, message in await place.history(streams.ORDERS)]

        await until_so(is_there)
        assert numbers(await place.executions()) == list(range(1, event.number + 1))


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
