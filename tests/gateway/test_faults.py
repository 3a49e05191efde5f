"""Every fault of the venue that concerns an order, one at a time, wherever in the order's life it strikes.

Whatever is lost, late, doubled, swapped or contradicted: one order at the venue, one outcome in the journal,
the result and the balance to the cent, and no position without its stop.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.gateway.orders import ENDED, Status
from shared.messages import OrderRequested
from tests.conftest import RedisServer
from tests.gateway.builders import CLOSE, a_closing, a_request
from tests.gateway.loop import on_loop
from tests.gateway.mesh import QUICK, Gateway, Place, a_gateway, a_place, net_pnl
from venue.faults import Fault

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D, S = Decimal, Status
LIFE_S_MAX = 25.0
EXECUTIONS = 5  # of an order's life: accepted, filled, protected; accepted and filled to close
STEP_MS = 400  # well below how late the late ones are
LATE_MS = 2_000


async def live(gateway: Gateway, request: OrderRequested) -> None:
    """Let an order live its life: sent, filled, protected, closed, whatever happens to it."""
    await gateway.place_order(request)
    try:
        async with asyncio.timeout(LIFE_S_MAX):
            while not has_ended(gateway, request):
                if gateway.status(request) is S.PROTECTED:
                    await gateway.handlers.on_close_requested(a_closing(request))
                await gateway.place.step(STEP_MS)
                await asyncio.sleep(0.03)
    except TimeoutError:
        kinds = ", ".join(gateway.kinds(request))
        raise AssertionError(f"{request.client_order_id} never ended: {kinds}") from None


def has_ended(gateway: Gateway, request: OrderRequested) -> bool:
    """Whether nothing of the order is left: not in the journal, not in the account, not at the venue."""
    place, label = gateway.place, request.client_order_id
    is_waiting = any(order["status"] == "ACCEPTED" for order in place.opening_orders(request))
    is_open = place.open_positions(label) or gateway.desk.account.position_of(label)
    return gateway.status(request) in ENDED and not is_waiting and not is_open


def check_books(gateway: Gateway, request: OrderRequested) -> None:
    """Compare the order's end with the venue's own books."""
    place, label = gateway.place, request.client_order_id
    positions = place.positions(label)
    assert len(place.opening_orders(request)) <= 1
    assert len(positions) <= 1
    if not positions:
        assert gateway.status(request) in (S.NOT_SENT, S.REJECTED)
        return
    assert gateway.status(request) is S.CLOSED, gateway.kinds(request)
    closed = gateway.journal.events_of(label)[-1]
    assert closed.pnl == net_pnl(place.books(), positions[0]["position_id"])


def requests_of(place: Place, count: int) -> list[OrderRequested]:
    return [a_request(book=place.book, close=CLOSE + timedelta(minutes=5 * n)) for n in range(count)]


@pytest.mark.parametrize(
    "fault",
    ["execution_lost", "execution_late", "execution_doubled", "execution_swapped", "execution_contradicted"],
)
@on_loop
async def test_execution_that_goes_wrong_anywhere_in_an_orders_life_is_survived(
    tmp_path: Path, valkey: RedisServer, fault: str
) -> None:
    """The first, the second ... the last message of a life: each is the one that goes wrong, once."""
    how: dict[str, Any] = {"delay_ms": LATE_MS} if fault == "execution_late" else {}
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        struck: list[Fault] = []
        for skip, request in enumerate(requests_of(place, EXECUTIONS)):
            struck.append(place.fault(fault, skip=skip, **how))
            await live(gateway, request)
            check_books(gateway, request)
            place.venue.exchange.faults.end_all()
        assert [each.fired for each in struck] == [1] * EXECUTIONS
        await gateway.desk.reconcile.now()
        assert gateway.desk.account.model.balance == D(place.venue.exchange.matching.balance_cents) / 100


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ("order_lost", {}),
        ("order_unanswered", {}),
        ("order_answer_late", {"delay_ms": LATE_MS}),
        ("order_refused", {}),
        ("order_refused_but_executed", {}),
        ("request_refused", {"message": "ProtoOANewOrderReq", "error_code": "BLOCKED_PAYLOAD_TYPE"}),
        ("request_refused", {"message": "ProtoOANewOrderReq", "error_code": "CANT_ROUTE_REQUEST"}),
        ("request_refused", {"message": "ProtoOANewOrderReq", "error_code": "A_CODE_OF_TOMORROW"}),
        ("accept_after_fill", {}),
        ("protection_missing", {}),
        ("protection_late", {"delay_ms": LATE_MS}),
        ("disconnected_after_accept", {}),
        ("filled_while_disconnected", {"delay_ms": LATE_MS}),
        ("frame_cut", {"message": "accept"}),
        ("frame_cut", {"message": "fill"}),
        ("request_unanswered", {"message": "ProtoOAClosePositionReq"}),
        ("request_ignored", {"message": "ProtoOAClosePositionReq"}),
        ("request_refused", {"message": "ProtoOAClosePositionReq", "error_code": "POSITION_LOCKED"}),
        ("field_missing", {"count": 4}),
        ("enum_unknown", {"count": 4}),
        ("field_unknown", {"count": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(str(v) for v in value.values()),
)
@on_loop
async def test_fault_of_an_order_is_survived(
    tmp_path: Path, valkey: RedisServer, fault: str, how: dict[str, Any]
) -> None:
    """Two orders: one that the fault strikes, and one after it that knows nothing of it."""
    async with a_place(tmp_path, valkey.url) as place:
        place.patience = replace(QUICK, absent_after_s=0.4)
        async with a_gateway(place) as gateway:
            struck = place.fault(fault, **how)
            first, second = requests_of(place, 2)
            await live(gateway, first)
            check_books(gateway, first)
            assert struck.fired >= 1
            place.venue.exchange.faults.end_all()
            await live(gateway, second)
            check_books(gateway, second)
            assert gateway.status(second) is S.CLOSED
            await gateway.published()
        numbers = [event.number for event in await place.executions()]
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("fault", ["", "execution_lost", "execution_doubled", "execution_swapped"])
@on_loop
async def test_orders_that_are_filled_in_parts_are_whole_in_the_end(
    tmp_path: Path, valkey: RedisServer, fault: str
) -> None:
    """Opened and closed in parts, with one message gone wrong: one position, one result, to the cent."""
    async with (
        a_place(tmp_path, valkey.url, partial_fill_fraction=0.8) as place,
        a_gateway(place) as gateway,
    ):
        for skip, request in enumerate(requests_of(place, 4)):
            if fault:
                place.fault(fault, skip=skip + 1)
            await live(gateway, request)
            check_books(gateway, request)
            place.venue.exchange.faults.end_all()
        deals = [deal for deal in place.books()["deals"] if deal["status"] == "PARTIALLY_FILLED"]
        assert deals
        await gateway.desk.reconcile.now()
        assert gateway.desk.account.model.balance == D(place.venue.exchange.matching.balance_cents) / 100


@on_loop
async def test_stop_is_set_though_the_venue_does_not_know_the_position_yet(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Just after a fill an amendment may be refused with POSITION_NOT_FOUND: it is sent again."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        missing, unknown = place.fault("protection_missing"), place.fault("position_not_found", count=2)
        (request,) = requests_of(place, 1)
        await live(gateway, request)
        check_books(gateway, request)
        assert (missing.fired, unknown.fired) == (1, 2)
        assert S.PROTECTED.value in gateway.kinds(request)
