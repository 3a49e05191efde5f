"""A position of ours is closed once, and asked for until it is gone."""

from __future__ import annotations

import asyncio
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from services.gateway.orders import Status
from shared.messages import ExecutionKind
from tests.conftest import RedisServer
from tests.gateway.builders import a_closing, a_request
from tests.gateway.loop import on_loop, until
from tests.gateway.mesh import a_gateway, a_place
from venue.calendar import NEW_YORK

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D = Decimal
E = ExecutionKind
S = Status
GUARDED = [E.SENT, E.ACCEPTED, E.FILLED, E.PROTECTED]


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
