"""Every position of ours has a stop at the venue, or is being repaired or closed."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from services.gateway.desk import Patience
from services.gateway.orders import Status
from shared.messages import ExecutionKind
from tests.conftest import RedisServer
from tests.gateway.builders import a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import Place, a_gateway, a_place
from tests.venue.client import logged_in
from venue.protocol import messages

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D = Decimal
E = ExecutionKind
S = Status


@on_loop
async def test_missing_stop_is_set_with_both_levels(tmp_path: Path, valkey: RedisServer) -> None:
    """An amendment with one level alone would remove the other."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        place.fault("protection_missing")
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
async def test_fill_that_nobody_told_is_protected_within_the_time_for_an_answer(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Its fill is lost and its stop never comes: who waits for both in turn leaves it bare for seconds."""
    async with a_place(tmp_path, valkey.url) as place:
        place.patience = Patience(protection_s=1.0, order_answer_s=2.0, absent_after_s=10.0)
        async with a_gateway(place) as gateway:
            request = a_request(book=place.book)
            place.fault("protection_missing")
            place.fault("fill_lost")
            await gateway.place_order(request)
            began_s = asyncio.get_running_loop().time()
            await until(lambda: place.opening_orders(request))
            await place.step()
            await gateway.reached(request, S.PROTECTED)
            assert asyncio.get_running_loop().time() - began_s < 1.5
            assert gateway.kinds(request) == [E.SENT, E.ACCEPTED, E.FILLED, E.REPAIRING, E.PROTECTED]


@on_loop
async def test_position_whose_stop_is_refused_is_closed(tmp_path: Path, valkey: RedisServer) -> None:
    """The price is already beyond the level: there is nothing to protect any more, only to end."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book, stop_distance=D("0.00001"))
        place.fault("protection_missing")
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
        place.fault("protection_missing")
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
        place.fault("protection_missing")
        async with a_gateway(place) as gateway:
            await gateway.place_order(request)
            await until(lambda: place.opening_orders(request))
        await place.step()
        async with a_gateway(place) as gateway:
            await gateway.reached(request, S.PROTECTED)
        (position,) = place.open_positions(request.client_order_id)
        assert position["stop_points"] == position["entry_points"] - 500


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
        place.fault("protection_missing")
        gateway.session.send_amend = None  # type: ignore[assignment, method-assign]
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        await place.step()
        await asyncio.sleep(2)
