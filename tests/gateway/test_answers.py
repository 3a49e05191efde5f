"""What the venue says to an order: it is followed, and what does not fit is never guessed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.gateway.link import Received
from services.gateway.orders import Status
from services.gateway.protocol import model, oa
from shared.messages import ExecutionKind
from tests.conftest import RedisServer
from tests.gateway.builders import a_closing, a_request
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import Gateway, a_gateway, a_place, net_pnl
from venue.protocol import messages

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D = Decimal
E = ExecutionKind
S = Status
GUARDED = [E.SENT, E.ACCEPTED, E.FILLED, E.PROTECTED]


def listen_in(gateway: Gateway) -> list[Any]:
    """Return a list that every execution event is added to as it comes."""
    heard: list[Any] = []
    on_execution = gateway.desk.answers.on_execution

    async def hear(message: Any) -> None:
        heard.append(message)
        await on_execution(message)

    gateway.desk.answers.on_execution = hear  # type: ignore[method-assign]
    return heard


@on_loop
async def test_rejected_order_is_told_with_the_venues_words_and_not_tried_again(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """What our own rules let through the venue may refuse all the same: it says why, and that is the end."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book, volume_units=D("10000000"))
        await gateway.place_order(request)
        await gateway.reached(request, S.REJECTED)
        event = gateway.journal.events()[-1]
        assert event.reason.startswith("NOT_ENOUGH_MONEY")
        assert len(place.books()["refusals"]) == 1


@on_loop
async def test_execution_that_is_told_twice_changes_nothing(tmp_path: Path, valkey: RedisServer) -> None:
    """Not the order, not the position, not the balance, and nobody is alarmed by it."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        heard = listen_in(gateway)
        request = a_request(book=place.book)
        await gateway.protected(request)
        await gateway.handlers.on_close_requested(a_closing(request))
        await until(lambda: len(place.books()["orders"]) == 3)
        await place.step_until(lambda: not place.open_positions(request.client_order_id))
        await gateway.reached(request, S.CLOSED)
        kinds, balance = gateway.kinds(request), gateway.desk.account.model.balance
        for message in list(heard):
            await gateway.desk.answers.on_execution(message)
        assert len(heard) >= 5
        assert gateway.kinds(request) == kinds
        assert gateway.desk.account.model.balance == balance
        assert gateway.desk.account.model.positions == {}
        assert not any("cannot follow" in text for text in await place.alarms())


@on_loop
async def test_old_news_of_a_position_does_not_take_its_stop_away(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """The word of the fill, told again after the stop was set, knows of no stop yet."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        heard = listen_in(gateway)
        request = a_request(book=place.book)
        place.fault("protection_late", delay_ms=200)
        await gateway.place_order(request)
        await until(lambda: place.opening_orders(request))
        await place.step()
        await gateway.reached(request, S.PROTECTED)
        (filled,) = [m for m in heard if m.executionType == model.ORDER_FILLED]
        await gateway.desk.answers.on_execution(filled)
        (position,) = gateway.desk.account.model.positions.values()
        assert position.stop_loss_price is not None
        assert gateway.status(request) is S.PROTECTED


@on_loop
async def test_order_that_was_rejected_and_filled_all_the_same_is_adopted(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """The venue contradicts itself: the position is a fact, and it is ours."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.place_order(request)
        await gateway.reached(request, S.ACCEPTED)
        await gateway.desk.executions.record(request, E.REJECTED, reason="REJECTED")
        await place.step()
        await gateway.reached(request, S.PROTECTED)
        assert gateway.kinds(request) == [E.SENT, E.ACCEPTED, E.REJECTED, E.FILLED, E.PROTECTED]
        await until_so(lambda: place.has_alarm("was REJECTED, and is FILLED"))


@pytest.mark.parametrize(
    ("fault", "field"),
    [
        ("enum_unknown", "position.positionStatus"),
        ("enum_unknown", "executionType"),
        ("field_missing", "deal"),
        ("field_missing", "deal.closePositionDetail.moneyDigits"),
    ],
)
@on_loop
async def test_end_that_is_half_understood_is_looked_up_at_once(
    tmp_path: Path, valkey: RedisServer, fault: str, field: str
) -> None:
    """Its symbol is not locked until the books happen to be compared, and its result is the ledger's."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        request = a_request(book=place.book)
        await gateway.protected(request)
        struck = place.fault(fault, message="fill", field=field)
        await gateway.handlers.on_close_requested(a_closing(request))
        await until(lambda: len(place.books()["orders"]) == 3)
        (position,) = place.open_positions(request.client_order_id)
        await place.step_until(lambda: not place.open_positions(request.client_order_id))
        await gateway.reached(request, S.CLOSED, within_s=5.0)  # the next comparison is 30 s away
        assert struck.fired == 1
        assert gateway.journal.events()[-1].pnl == net_pnl(place.books(), position["position_id"])
        balance = D(place.venue.exchange.matching.balance_cents) / 100
        await until(lambda: gateway.desk.account.model.balance == balance)


@on_loop
async def test_rejection_of_an_order_that_was_accepted_is_believed_when_the_books_say_so(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """Were its symbol free at once, it could have a second order, and both could be filled."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        heard = listen_in(gateway)
        request = a_request(book=place.book)
        await gateway.place_order(request)
        await gateway.reached(request, S.ACCEPTED)
        rejection = type(heard[0])()
        rejection.CopyFrom(heard[0])
        rejection.executionType, rejection.errorCode = model.ORDER_REJECTED, "TRADING_DISABLED"
        await gateway.desk.answers.on_execution(rejection)
        assert gateway.kinds(request)[:3] == [E.SENT, E.ACCEPTED, E.UNKNOWN]
        await gateway.reached(request, S.ACCEPTED)
        await place.step()
        await gateway.reached(request, S.PROTECTED)
        assert E.REJECTED not in gateway.kinds(request)


@on_loop
async def test_cancel_that_was_rejected_says_nothing_of_the_order(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """We cancel nothing; what somebody else tried in vain leaves the order as it was."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        heard = listen_in(gateway)
        request = a_request(book=place.book)
        await gateway.protected(request)
        for message in list(heard):
            copy = type(message)()
            copy.CopyFrom(message)
            copy.executionType = model.ORDER_CANCEL_REJECTED
            await gateway.desk.answers.on_execution(copy)
        assert gateway.status(request) is S.PROTECTED
        assert gateway.kinds(request) == [E.SENT, E.ACCEPTED, E.FILLED, E.PROTECTED]


@on_loop
async def test_money_that_comes_in_is_in_the_account_at_once(tmp_path: Path, valkey: RedisServer) -> None:
    """A deposit is an execution event without an order; an older balance does not come back."""
    async with a_place(tmp_path, valkey.url) as place, a_gateway(place) as gateway:
        for version, balance in ((70, 1_500_000), (69, 1_200_000)):
            cash = model.ProtoOADepositWithdraw(
                operationType=model.BALANCE_DEPOSIT,
                balanceHistoryId=1,
                balance=balance,
                delta=500_000,
                changeBalanceTimestamp=place.now_ms,
                balanceVersion=version,
                moneyDigits=2,
            )
            event = oa.ProtoOAExecutionEvent(
                ctidTraderAccountId=1, executionType=model.DEPOSIT_WITHDRAW, depositWithdraw=cash
            )
            await gateway.desk.answers.on_execution(event)
        assert gateway.desk.account.model.balance == D(15_000)


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
