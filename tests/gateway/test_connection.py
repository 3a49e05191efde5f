"""One owner of the connection: it is lost, tried again, and given up in words."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.gateway import connection as connection_module
from services.gateway import link as link_module
from services.gateway.connection import Retry
from services.gateway.inbox import Inbox
from services.gateway.link import Link, Received
from services.gateway.main import build
from services.gateway.protocol import TYPES, oa
from services.gateway.settings import GatewaySettings
from shared import streams
from shared.bus import Output
from shared.errors import InputError, UnavailableError
from shared.messages import ExecutionKind, Severity
from shared.redis_bus import RedisBus
from shared.runtime import Runtime
from tests.conftest import RedisServer
from tests.gateway.builders import a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import M5_MS, SYMBOLS, Gateway, Place, a_gateway, a_place

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]


async def run_to_its_end(place: Place) -> Gateway:
    async with a_gateway(place, wait=False) as gateway:
        await asyncio.sleep(10)
    return gateway


def test_delays_are_those_of_the_policy() -> None:
    """5, 10, 20, 40 and 80 seconds, a little more or less: those that were cut together dial apart."""
    retry = Retry(5.0, 5)
    for number, middle_s in enumerate((5, 10, 20, 40, 80), 1):
        delays_s = {retry.delay_s(number) for _ in range(50)}
        assert all(0.9 * middle_s <= delay_s <= 1.1 * middle_s for delay_s in delays_s)
        assert len(delays_s) > 1


@on_loop
async def test_connection_is_given_up_after_its_tries_with_an_alarm(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Each failed dial counts, each is told with the delay before the next, then the process ends."""
    async with a_place(tmp_path, valkey.url) as place:
        place.retry = Retry(0.02, 3, jitter=0.0)
        place.venue.ready["port"] = 1
        with pytest.raises(ExceptionGroup) as caught:
            await run_to_its_end(place)
        assert caught.group_contains(UnavailableError, match="no connection after 3 tries: 127.0.0.1:1")
        told = await place.told()
        assert [event.text.rpartition("; ")[2] for event in told[:3]] == [
            "try 1 of 3 in 0.02 s",
            "try 2 of 3 in 0.04 s",
            "try 3 of 3 in 0.08 s",
        ]
        assert "no connection after 3 tries" in told[3].text
        assert {event.kind for event in told} == {"connection"}
        assert [event.severity for event in told] == [Severity.WARNING] * 3 + [Severity.CRITICAL]


@on_loop
async def test_wrong_credentials_end_the_process_at_once(tmp_path: Path, valkey: RedisServer) -> None:
    """Trying again would not help, and may block the application."""
    async with a_place(tmp_path, valkey.url) as place:
        place.venue.ready["client_secret"] = "wrong"  # noqa: S105 - it is
        with pytest.raises(ExceptionGroup) as caught:
            await run_to_its_end(place)
        assert caught.group_contains(InputError, match="CT_CLIENT_SECRET")
        (event,) = await place.told()
        assert (event.kind, event.severity) == ("connection", Severity.CRITICAL)
        assert "CT_CLIENT_SECRET" in event.text


@pytest.mark.parametrize(
    ("wrong", "status", "says"),
    [({"client_secret": "wrong"}, 2, "CT_CLIENT_SECRET"), ({"port": 1}, 1, "no connection after 1 tries")],
)
@on_loop
async def test_process_leaves_with_its_status_and_a_notification(
    tmp_path: Path, valkey: RedisServer, wrong: dict[str, Any], status: int, says: str
) -> None:
    """Whoever watches the process sees that it failed, and whoever reads the events sees why."""
    async with a_place(tmp_path, valkey.url) as place:
        (tmp_path / "ready.json").write_text(json.dumps(place.venue.ready | wrong))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.gateway.main",
            stderr=asyncio.subprocess.PIPE, cwd=ROOT,
            env={
                **{name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ},
                "REDIS_URL": valkey.url,
                "BOOK": place.book,
                "SIM_VENUE_FILE": str(tmp_path / "ready.json"),
                "GATEWAY_JOURNAL": str(tmp_path / "journal.db"),
                "GATEWAY_TOKEN_DIR": str(tmp_path / "tokens"),
                "GATEWAY_RECONNECT_FIRST_S": "0.05",
                "GATEWAY_RECONNECT_TRIES": "1",
            },
        )  # fmt: skip
        _, errors = await process.communicate()
        assert process.returncode == status
        assert says in errors.decode()
        assert place.venue.ready["client_secret"] not in errors.decode()
        (event,) = [event for event in await place.told() if event.severity is Severity.CRITICAL]
        assert says in event.text


# -- what the venue ends


@on_loop
async def test_account_that_the_venue_drops_is_authorised_again_on_its_connection(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """The link is good: authorise, subscribe, reconcile, and go on."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        place.fault("account_disconnected")
        await place.step_until(lambda: gateway.connection.trouble)
        await until(gateway.is_online)
        request = a_request(book=place.book)
        await gateway.protected(request)
        assert gateway.dialled == 1
        assert await place.has_alarm("ProtoOAAccountDisconnectEvent); authorising again")


@on_loop
async def test_token_that_is_voided_is_refreshed_and_trading_goes_on(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """The connection stands, the grant stands: only the access token is a new one, and it is kept."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        before = place.credentials().tokens.current()
        place.fault("token_voided")
        await place.step_until(lambda: gateway.connection.trouble)
        await until(gateway.is_online)
        await gateway.protected(a_request(book=place.book))
        assert gateway.dialled == 1
        assert place.credentials().tokens.current().access_token != before.access_token


@on_loop
async def test_token_that_is_due_is_refreshed_between_two_sessions(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it ends, on the same connection, and without a failed try."""
    monkeypatch.setattr(connection_module, "DUE_LOOK_S", 0.05)
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        tokens = place.credentials().tokens
        pair = tokens.current()
        due = pair.model_copy(update={"since": pair.since - timedelta(days=365)})
        tokens.path.write_text(due.model_dump_json())
        await until(lambda: tokens.current().access_token != pair.access_token)
        await until(gateway.is_online)
        await gateway.protected(a_request(book=place.book))
        assert gateway.dialled == 1
        assert await place.has_alarm("due to be refreshed")


@on_loop
async def test_trading_outlives_its_tokens(tmp_path: Path, valkey: RedisServer) -> None:
    """The age of the first one is not known: it ends under us. From then on each is refreshed in time."""
    async with a_place(tmp_path, valkey.url, token_life_s=4) as place, a_gateway(place) as gateway:
        tokens, seen = place.credentials().tokens, set()

        def has_seen(count: int) -> bool:
            seen.add(tokens.current().access_token)
            return len(seen) >= count

        await until(lambda: has_seen(3), within_s=25)
        await until(gateway.is_online)
        await gateway.protected(a_request(book=place.book))
        assert gateway.dialled == 1


@on_loop
async def test_refresh_token_that_somebody_else_has_used_ends_the_process(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Only a person can grant access again: it is said, once, and nothing is tried for ever."""
    async with a_place(tmp_path, valkey.url) as place:
        place.fault("refresh_raced")
        with pytest.raises(ExceptionGroup) as caught:
            await void_the_token(place)
        assert caught.group_contains(InputError, match="refresh token is refused; grant access again")


async def void_the_token(place: Place) -> None:
    async with a_gateway(place) as gateway:
        place.fault("token_voided")
        await place.step_until(lambda: gateway.connection.trouble)
        await asyncio.sleep(10)


@on_loop
async def test_two_gateways_with_one_grant_both_trade_on_after_its_refresh(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """One refreshes, the other takes the pair that it has kept."""
    async with a_place(tmp_path, valkey.url) as place:
        other = Place(place.venue, valkey.url, tmp_path / "other", tokens=place.folder / "tokens")
        other.folder.mkdir()
        async with a_gateway(place) as first, a_gateway(other) as second:
            place.fault("token_voided")
            await place.step_until(lambda: first.connection.trouble and second.connection.trouble)
            await until(lambda: first.is_online() and second.is_online(), within_s=20)
            assert (first.dialled, second.dialled) == (1, 1)
            await first.protected(a_request(book=place.book))
            await second.protected(a_request("XAUUSD", book=other.book))


@pytest.mark.parametrize("fault", ["client_disconnected", "link_dropped", "frame_cut", "symbol_ids_changed"])
@on_loop
async def test_connection_that_the_venue_ends_is_opened_again(
    tmp_path: Path, valkey: RedisServer, fault: str
) -> None:
    """With a word or without one, between two messages or within one, and with other names after it."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        place.fault(fault)
        await place.step_until(lambda: gateway.dialled == 2)
        await until(gateway.is_online)
        await gateway.protected(a_request(book=place.book))
        assert await place.has_alarm("try 1 of 6")


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ("handshake_closed", {}),
        ("account_auth_unanswered", {}),
        ("not_routed", {"message": "ProtoOAAccountAuthReq"}),
        ("rate_limited", {"message": "ProtoOASymbolByIdReq"}),
        ("request_refused", {"message": "request", "error_code": "SERVER_IS_UNDER_MAINTENANCE"}),
    ],
)
@on_loop
async def test_session_that_cannot_be_opened_now_is_opened_later(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch, fault: str, how: dict[str, Any]
) -> None:
    """A venue that is being restarted turns clients away in many ways."""
    monkeypatch.setattr(link_module, "ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr(link_module, "TOO_FAST_FIRST_S", 0.05)
    async with a_place(tmp_path, valkey.url) as place:
        asked = place.fault(fault, **how)
        async with a_gateway(place) as gateway:
            assert asked.fired == 1
            await gateway.protected(a_request(book=place.book))


@on_loop
async def test_connection_that_carries_nothing_any_more_is_given_up(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is open for TCP, and would be for hours: what is silent for too long is dead."""
    monkeypatch.setattr(link_module, "SILENCE_S", 3.0)
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        place.fault("link_frozen")
        await place.step()
        await until(lambda: gateway.dialled == 2)
        await until(gateway.is_online)
        await gateway.protected(a_request(book=place.book))
        assert await place.has_alarm("connection lost (nothing heard for 3 s)")


@on_loop
async def test_redis_that_is_away_costs_no_try_of_the_venue(
    tmp_path: Path, valkey: RedisServer, own_valkey: RedisServer
) -> None:
    """The venue answers: it is not its fault, and the session waits for the terms to be written."""
    async with a_place(tmp_path, own_valkey.url) as place, a_gateway(place) as gateway:
        place.retry = Retry(0.01, 1)
        own_valkey.kill()
        gateway.cut()
        await until(lambda: gateway.dialled == 2)
        await asyncio.sleep(0.5)
        own_valkey.start()
        await until(gateway.is_online)
        assert gateway.dialled == 2


@on_loop
async def test_after_a_reconnection_the_gap_is_filled_and_the_books_compared_before_an_order_leaves(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Authorise, subscribe, backfill, reconcile, then trade: in this order, whatever waits."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        asked: list[str] = []
        offer = Link._offer

        def noting(link: Link, request: Any, urgency: Any, kind: int) -> Any:
            asked.append(TYPES[kind].DESCRIPTOR.name.removeprefix("ProtoOA"))
            return offer(link, request, urgency, kind)

        monkeypatch.setattr(Link, "_offer", noting)
        gateway.cut()
        request = a_request(book=place.book)
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        places = [asked.index(name) for name in ("ApplicationAuthReq", "AccountAuthReq", "SubscribeSpotsReq")]
        last_backfill = max(i for i, name in enumerate(asked) if name == "GetTrendbarsReq")
        last_reconcile = max(i for i, name in enumerate(asked) if name == "ReconcileReq")
        places += [last_backfill, last_reconcile, asked.index("NewOrderReq")]
        assert places == sorted(places)


# -- counting


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
        inbox: Inbox[Received] = Inbox()
        spots = [oa.ProtoOASpotEvent(ctidTraderAccountId=1, symbolId=i) for i in gateway.session.by_id]
        events = [oa.ProtoOATrailingSLChangedEvent(orderId=number) for number in range(4)]
        for message in (events[0], spots[0], events[1], spots[1], events[2], events[3]):
            inbox.put(Received(message, ""))
        await gateway.connection._first_quotes(gateway.session, inbox)
        assert [(await inbox.get()).message.orderId for _ in range(len(inbox))] == [0, 1, 2, 3]


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
            token_dir=tmp_path / "tokens",
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
