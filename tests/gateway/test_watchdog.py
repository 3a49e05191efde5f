"""A symbol that is silent while its market is open: subscribe again, connect anew, then say so."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.gateway.silence import Silence, Step
from tests.conftest import RedisServer
from tests.gateway.loop import on_loop, until, until_so
from tests.gateway.mesh import SYMBOLS, a_gateway, a_place

EURO, GOLD = SYMBOLS


def test_each_step_is_due_once_after_as_long_again() -> None:
    """Nobody is hurried: a step has its time to help."""
    silence = Silence(60)
    silence.heard(EURO, 1_000, 0.0)
    due = {now_s: silence.due(EURO, float(now_s), is_open=True) for now_s in range(1, 400)}
    assert {at: step for at, step in due.items() if step} == {
        60: Step.SUBSCRIBE,
        120: Step.RECONNECT,
        180: Step.DEGRADE,
    }
    assert silence.degraded() == [EURO]
    assert silence.heard(EURO, 1_500, 399.0) is Step.NOTHING  # the last price, after the subscription
    assert silence.heard(EURO, 2_000, 400.0) is Step.DEGRADE
    assert silence.degraded() == []


def test_closed_market_may_be_silent_and_its_opening_counts_anew() -> None:
    """On Sunday evening the first quote need not come in the first second."""
    silence = Silence(60)
    silence.heard(EURO, 1_000, 0.0)
    assert silence.due(EURO, 100_000.0, is_open=False) is Step.NOTHING
    assert silence.due(EURO, 100_001.0, is_open=True) is Step.NOTHING
    assert silence.due(EURO, 100_060.0, is_open=True) is Step.NOTHING
    assert silence.due(EURO, 100_061.0, is_open=True) is Step.SUBSCRIBE


def test_price_that_follows_a_subscription_is_no_news() -> None:
    """It is the last one that the venue has, known to us or not: the symbol is as silent as before."""
    silence = Silence(60)
    silence.heard(EURO, 1_000, 0.0)
    assert silence.due(EURO, 60.0, is_open=True) is Step.SUBSCRIBE
    silence.heard(EURO, 1_500, 61.0)
    assert silence.due(EURO, 120.0, is_open=True) is Step.RECONNECT
    silence.restart()
    silence.heard(EURO, 1_500, 130.0)
    assert silence.due(EURO, 131.0, is_open=True) is Step.NOTHING  # a new connection has its time too
    assert silence.due(EURO, 191.0, is_open=True) is Step.DEGRADE


@pytest.mark.redis
@pytest.mark.usefixtures("history_at_once")
@on_loop
async def test_silent_symbol_is_subscribed_to_again_and_then_the_connection_is_made_anew(
    tmp_path: Path, valkey: RedisServer
) -> None:
    """One symbol's quotes stop, the other's go on; after the new connection both are there."""
    tuesday = datetime(2025, 1, 7, 9, tzinfo=UTC)
    async with a_place(tmp_path, valkey.url, speed=60, start=tuesday) as place:
        place.quiet_s = 1.0
        place.warmup = 1
        async with a_gateway(place) as gateway:
            place.fault("quotes_missing", count=1_000_000, symbol=GOLD)
            await until_so(lambda: place.has_alarm(f"{GOLD}: no quote for 1 s"), within_s=20)
            await until_so(lambda: place.has_alarm("connecting anew"), within_s=20)
            place.venue.exchange.faults.end_all()
            await until(lambda: gateway.dialled >= 2 and gateway.is_online(), within_s=20)
            await until_so(lambda: place.has_alarm(f"{GOLD} is quoted again"), within_s=20)
            assert gateway.feed.watchdog.trouble() == ""
