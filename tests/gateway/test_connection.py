"""One owner of the connection: it is lost, tried again, and given up in words."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from services.gateway import connection as connection_module
from services.gateway.connection import Retry
from services.gateway.link import Received
from services.gateway.main import build
from services.gateway.protocol import oa
from services.gateway.settings import GatewaySettings
from shared import streams
from shared.bus import Output, RedisBus
from shared.errors import InputError, UnavailableError
from shared.messages import ExecutionKind
from shared.runtime import Runtime
from tests.conftest import RedisServer
from tests.gateway.builders import a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import M5_MS, SYMBOLS, Gateway, Place, a_gateway, a_place
from tests.venue.client import logged_in
from venue.protocol import messages

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]


async def run_to_its_end(place: Place) -> Gateway:
    async with a_gateway(place, wait=False) as gateway:
        await asyncio.sleep(10)
    return gateway


@on_loop
async def test_connection_is_given_up_after_its_tries_with_an_alarm(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each failed dial counts, each is told with the delay before the next, then the process ends."""
    async with a_place(tmp_path, valkey.url) as place:
        place.retry = Retry(0.02, 3)
        place.venue.ready["port"] = 1
        with pytest.raises(ExceptionGroup) as caught:
            await run_to_its_end(place)
        assert caught.group_contains(UnavailableError, match="no connection after 3 tries: 127.0.0.1:1")
        told = await place.alarms()
        assert [text.rpartition("; ")[2] for text in told[:3]] == [
            "try 1 of 3 in 0.02 s",
            "try 2 of 3 in 0.04 s",
            "try 3 of 3 in 0.08 s",
        ]
        assert "no connection after 3 tries" in told[3]


@on_loop
async def test_wrong_credentials_end_the_process_at_once(tmp_path: Path, valkey: RedisServer) -> None:
    """Trying again would not help, and may block the application."""
    async with a_place(tmp_path, valkey.url) as place:
        place.venue.ready["client_secret"] = "wrong"  # noqa: S105 - it is
        with pytest.raises(ExceptionGroup) as caught:
            await run_to_its_end(place)
        assert caught.group_contains(InputError, match="CT_CLIENT_SECRET")


@on_loop
async def test_token_that_is_revoked_ends_the_session_and_then_the_process(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """The venue says so before it goes silent: nobody waits for quotes that cannot come any more."""
    async with a_place(tmp_path, valkey.url) as place:
        ready = dict(place.venue.ready)
        with pytest.raises(ExceptionGroup) as caught:
            await revoke(place, ready)
        assert caught.group_contains(InputError, match="CH_ACCESS_TOKEN_INVALID")


@on_loop
async def test_healthy_session_resets_the_count_of_tries(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that breaks once a day is not given up after five days."""
    monkeypatch.setattr(connection_module, "HEALTHY_S", 0.0)
    async with a_place(tmp_path, valkey.url) as place:
        place.retry = Retry(0.01, 2)
        async with a_gateway(place) as gateway:
            for _ in range(4):
                gateway.cut()
                await until(gateway.is_online)
            assert gateway.dialled == 5


@on_loop
async def test_session_that_breaks_at_once_counts_as_a_try(tmp_path: Path, valkey: RedisServer) -> None:
    """A venue that lets us in and throws us out is not worth an endless loop."""
    async with a_place(tmp_path, valkey.url) as place:
        place.retry = Retry(0.01, 2)
        with pytest.raises(ExceptionGroup) as caught:
            await break_again_and_again(place)
        assert caught.group_contains(UnavailableError, match="no connection after 2 tries")


async def break_again_and_again(place: Place) -> None:
    async with a_gateway(place) as gateway:
        for _ in range(9):
            gateway.cut()
            await until(gateway.is_online)


@on_loop
async def test_symbol_without_a_quote_is_named(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every input is present before anything is decided."""
    monkeypatch.setattr(connection_module, "FIRST_QUOTES_S", 0.2)
    async with a_place(tmp_path, valkey.url) as place:
        place.venue.exchange.matching.quotes.pop("XAUUSD")
        async with a_gateway(place, wait=False) as gateway:
            await until(lambda: gateway.connection.trouble == "no first quote of XAUUSD")


@on_loop
async def test_what_came_before_the_first_quotes_is_handled_before_what_came_after(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """A fill that is put behind its stop would not fit."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        inbox: asyncio.Queue[Received] = asyncio.Queue()
        spots = [oa.ProtoOASpotEvent(ctidTraderAccountId=1, symbolId=i) for i in gateway.session.by_id]
        events = [oa.ProtoOATrailingSLChangedEvent(orderId=number) for number in range(4)]
        for message in (events[0], spots[0], events[1], spots[1], events[2], events[3]):
            inbox.put_nowait(Received(message, ""))
        await gateway.connection._first_quotes(gateway.session, inbox)
        assert [inbox.get_nowait().message.orderId for _ in range(inbox.qsize())] == [0, 1, 2, 3]


async def revoke(place: Place, ready: dict[str, Any]) -> None:
    async with a_gateway(place), logged_in(ready) as client:
        await client.ask(messages.ProtoOARefreshTokenReq(refreshToken=ready["refresh_token"]))
        await asyncio.sleep(10)


async def is_well(bus: RedisBus) -> bool:
    health = await bus.health("gateway")
    return (health.get("status"), health.get("detail")) == ("ready", "")


@on_loop
async def test_service_trades_a_request_once_over_a_restart(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it runs: settings, lease, streams in, streams out."""
    async with a_place(tmp_path, valkey.url) as place:
        ready = tmp_path / "ready.json"
        ready.write_text(json.dumps(place.venue.ready))
        monkeypatch.chdir(tmp_path)
        settings = GatewaySettings(
            _env_file=None,
            REDIS_URL=valkey.url,
            BOOK=place.book,
            SYMBOLS=",".join(SYMBOLS),
            SIM_VENUE_FILE=ready,
            venue_speed=0,
        )
        request = a_request(book=place.book)
        async with RedisBus.connect(valkey.url, place.book, "executor") as executor:
            await executor.hold_lease(60)
            await executor.publish([Output(request), Output(request)])
        for slices in (1, 2):
            async with (
                RedisBus.connect(valkey.url, place.book, "gateway") as bus,
                build(settings, bus) as service,
            ):
                runtime = Runtime("gateway", service, bus, settings)
                running = asyncio.create_task(runtime.run())
                await until_so(lambda: is_well(bus))
                await until(lambda: place.opening_orders(request))
                await place.step(M5_MS)
                await until_so(lambda: place.has_live_slices(slices))  # noqa: B023 - it is awaited at once
                runtime.stop()
                await asyncio.wait({running}, timeout=3)
                running.cancel()  # how a service stops is the runtime's test
                await asyncio.wait({running})
        kinds = [event.kind for event in await place.executions()]
        assert kinds[:2] == [ExecutionKind.SENT, ExecutionKind.ACCEPTED]
        assert len(place.opening_orders(request)) == 1
        async with RedisBus.connect(valkey.url, place.book, "gateway") as bus:
            await bus.load_marks()
            assert streams.ORDERS.name in bus.last_ids()
