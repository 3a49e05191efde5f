"""What the venue says to an order: it is followed, and what does not fit is never guessed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from services.gateway.link import Received
from services.gateway.orders import Status
from shared.messages import ExecutionKind
from tests.conftest import RedisServer
from tests.gateway.builders import a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import a_gateway, a_place
from venue.protocol import messages

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D = Decimal
E = ExecutionKind
S = Status
GUARDED = [E.SENT, E.ACCEPTED, E.FILLED, E.PROTECTED]


@on_loop
async def test_rejected_order_is_told_with_the_venues_words_and_not_tried_again(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Off the volume grid: the venue says why, and that is the end of it."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book, volume_units=D("1500"))
        await gateway.place_order(request)
        await gateway.reached(request, S.REJECTED)
        event = gateway.journal.events()[-1]
        assert "TRADING_BAD_VOLUME: Order volume" in event.reason
        assert len(place.books()["refusals"]) == 1


@on_loop
async def test_order_whose_answer_is_that_it_may_have_been_executed_is_unknown(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """A time-out at the venue is no rejection."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        place.fault("order_unanswered")
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        error = messages.ProtoOAErrorRes(errorCode="TIMEOUT_ERROR", description="Timeout")
        await gateway.desk.answers.on_refusal(Received(error, f"order:{request.client_order_id}"))
        assert gateway.kinds(request) == [E.SENT, E.UNKNOWN]
        await place.step()
        await gateway.reached(request, S.PROTECTED)
        assert len(place.opening_orders(request)) == 1


@on_loop
async def test_event_that_does_not_fit_is_an_alarm_and_leaves_the_order(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """The venue is asked, nothing is guessed."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.protected(request)
        await gateway.desk.executions.record(request, E.ACCEPTED)
        assert gateway.status(request) is S.PROTECTED
        assert gateway.kinds(request) == GUARDED
        await until_so(lambda: place.has_alarm("ACCEPTED cannot follow PROTECTED"))
