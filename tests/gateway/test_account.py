"""The account is the venue's own, to the cent, over trades and restarts."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from services.gateway.orders import Status
from shared.messages import Direction
from tests.conftest import RedisServer
from tests.gateway.builders import CLOSE, a_closing, a_request
from tests.gateway.loop import on_loop, until
from tests.gateway.mesh import a_gateway, a_place, net_pnl, numbers

pytestmark = [pytest.mark.redis, pytest.mark.usefixtures("history_at_once")]

D = Decimal
S = Status
NARROW = {"stop_distance": D("0.00030"), "target_distance": D("0.00030")}
M5 = 300_000


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
        await gateway.published()  # journalled first, then counted
        books = place.books()
        for request in requests:
            (position,) = place.positions(request.client_order_id)
            closed = gateway.journal.events_of(request.client_order_id)[-1]
            assert closed.pnl == net_pnl(books, position["position_id"])
            assert closed.reason == {"STOP": "STOP_LOSS", "TARGET": "TAKE_PROFIT"}[position["close_reason"]]
        assert gateway.desk.account.model.balance == D(place.venue.exchange.matching.balance_cents) / 100
        results = [gateway.desk.account.model.history(symbol).results for symbol in ("EURUSD", "XAUUSD")]
        assert all(sum(result != 0 for result in each) == 3 for each in results)


@on_loop
async def test_peak_and_past_trades_survive_a_restart(tmp_path: Path, valkey: RedisServer) -> None:
    """Drawdown is measured from the highest equity ever seen, and the risk model sees its own past."""
    async with a_place(tmp_path, valkey.url) as place:
        request = a_request(book=place.book, **NARROW)
        async with a_gateway(place) as gateway:
            await gateway.protected(request)
            await place.step_until(lambda: not place.open_positions(request.client_order_id), ms=M5)
            await gateway.reached(request, S.CLOSED)
            gateway.desk.account.model.peak_equity = D("12345.67")
            await gateway.desk.account.remember_peak()
            before = gateway.desk.account.model
        async with a_gateway(place) as gateway:
            after = gateway.desk.account.model
            assert after is not None
            assert (after.peak_equity, after.initial_equity) == (D("12345.67"), D("10000.00"))
            assert (after.results, after.risk_actions) == (before.results, before.risk_actions)
            assert len(after.results["EURUSD"]) == 1
