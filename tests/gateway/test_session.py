"""The session on the venue over real TLS: who is let in, what is learned, what is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.gateway import link as link_module
from services.gateway.link import Received
from services.gateway.main import venue_of
from services.gateway.rate import Limits
from services.gateway.session import Credentials, Session
from services.gateway.settings import GatewaySettings
from services.gateway.transport import Address
from shared.clock import monotonic_s
from shared.errors import InputError, UnavailableError
from tests.gateway.loop import on_loop
from tests.venue.client import Control
from tests.venue.conftest import a_setting
from venue.calendar import is_open
from venue.main import RunningVenue, serve

EURO, GOLD = "EURUSD", "XAUUSD"
BOTH = (EURO, GOLD)


def address_of(ready: dict[str, Any]) -> Address:
    return Address(ready["host"], ready["port"], Path(ready["ca_file"]))


def credentials_of(ready: dict[str, Any]) -> Credentials:
    return Credentials(ready["client_id"], ready["client_secret"], ready["access_token"], ready["account_id"])


@asynccontextmanager
async def a_session(
    venue: RunningVenue, *symbols: str, who: Credentials | None = None
) -> AsyncIterator[tuple[Session, asyncio.Queue[Received]]]:
    inbox: asyncio.Queue[Received] = asyncio.Queue()
    session = await Session.open(
        address_of(venue.ready), who or credentials_of(venue.ready), "main", symbols or BOTH, inbox
    )
    try:
        yield session, inbox
    finally:
        session.link.abort("the test is over")


@on_loop
async def test_rate_limit_of_the_venue_is_kept(tmp_path: Path) -> None:
    """A flood of questions is answered without one being refused."""
    async with (
        serve(a_setting(tmp_path / "venue")) as venue,
        a_session(venue, EURO) as (session, _),
    ):
        now_ms = venue.exchange.now_ms
        began_s = monotonic_s()
        await asyncio.gather(
            *(session.read_trader() for _ in range(25)), *(session.positions() for _ in range(25))
        )
        assert monotonic_s() - began_s > 0.9
        await asyncio.gather(*(session.closes_since(now_ms, now_ms) for _ in range(6)))


# -- the session


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        ({"client_secret": "wrong"}, "CT_CLIENT_SECRET"),
        ({"access_token": "wrong"}, "CT_ACCESS_TOKEN"),
        ({"account_id": 1}, "CT_ACCOUNT_ID"),
    ],
)
@on_loop
async def test_wrong_credentials_are_fatal_and_name_the_settings(
    tmp_path: Path, wrong: dict[str, Any], setting: str
) -> None:
    """Trying again would not help, and may block the application."""
    async with serve(a_setting(tmp_path / "venue")) as venue:
        who = replace(credentials_of(venue.ready), **wrong)
        with pytest.raises(InputError, match=setting) as caught:
            async with a_session(venue, who=who):
                pass
        assert venue.ready["access_token"] not in str(caught.value)


@on_loop
async def test_unknown_symbol_is_named(tmp_path: Path) -> None:
    """The universe is traded exactly or not at all."""
    async with serve(a_setting(tmp_path / "venue")) as venue:
        with pytest.raises(
            InputError, match=r"SYMBOLS: the venue has no enabled EURUSDm, BTCUSD; it offers EURUSD"
        ):
            async with a_session(venue, "EURUSDm", GOLD, "BTCUSD"):
                pass


@on_loop
async def test_session_learns_terms_and_subscribes(tmp_path: Path) -> None:
    """Contracts in the book's order, the balance to the cent, and quotes with stamps."""
    async with (
        serve(a_setting(tmp_path / "venue")) as venue,
        a_session(venue, GOLD, EURO) as (session, inbox),
    ):
        assert list(session.contracts) == [GOLD, EURO]
        assert (str(session.trader.balance), session.trader.currency) == ("10000.00", "USD")
        await Control(venue.ready).step(venue.exchange.now_ms + 2_000)
        first = await inbox.get()
        assert first.message.timestamp > 0
        assert session.by_id[first.message.symbolId].symbol in BOTH


@on_loop
async def test_history_goes_back_over_a_weekend_until_there_are_enough(tmp_path: Path) -> None:
    """On Monday morning the bars before are Friday's: asked by count, window by window, oldest first."""
    monday = datetime(2025, 1, 13, 2, tzinfo=UTC)
    settings = a_setting(tmp_path / "venue", slices=2_000, start=monday)
    async with serve(settings) as venue, a_session(venue, EURO, GOLD) as (session, _):
        now_ms = int(monday.timestamp() * 1000)
        for symbol in (EURO, GOLD):
            bars = await session.history(symbol, 400, now_ms)
            opens = [bar.open_time_ms for bar in bars]
            assert len(bars) >= 400
            assert opens == sorted(set(opens))
            assert opens[-1] == now_ms - 300_000
            assert all(is_open(symbol, at_ms) for at_ms in opens)
            assert opens[0] < now_ms - 3 * 86_400_000


@on_loop
async def test_history_that_is_shorter_than_asked_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A young market is no reason to ask for ever."""
    monkeypatch.setattr(link_module, "LIMITS", Limits(history_per_s=1000.0))
    settings = a_setting(tmp_path / "venue", history_slices=20, history_requests_per_s=1000)
    async with (
        serve(settings) as venue,
        a_session(venue, EURO) as (s, _),
    ):
        bars = await asyncio.wait_for(s.history(EURO, 5_000, venue.exchange.now_ms), 20)
        assert 0 < len(bars) <= 20


# -- where the venue is


def test_simulated_venue_says_itself_where_it_is(tmp_path: Path) -> None:
    """One file from the venue, nothing to copy by hand."""
    path = tmp_path / "ready.json"
    settings = GatewaySettings(_env_file=None, SIM_VENUE_FILE=path)
    with pytest.raises(UnavailableError, match=r"SIM_VENUE_FILE .* start `tradeguard venue` first"):
        venue_of(settings)
    path.write_text('{"host": "127.0.0.1"}')
    with pytest.raises(InputError, match="SIM_VENUE_FILE"):
        venue_of(settings)
    told = {"host": "::1", "port": 5, "ca_file": "/ca.pem", "client_id": "a", "client_secret": "b1234567"}
    path.write_text(json.dumps({**told, "access_token": "c1234567", "account_id": 4}))
    address, who = venue_of(settings)
    assert (address, who.account_id) == (Address("::1", 5, Path("/ca.pem")), 4)


def test_real_venue_is_the_official_host_with_the_platforms_trust() -> None:
    """Demo and live differ in the host alone; no CA file of our own may stand in for the platform's."""
    credentials = {"CT_CLIENT_ID": "a", "CT_CLIENT_SECRET": "b", "CT_ACCESS_TOKEN": "c", "CT_ACCOUNT_ID": 4}
    for kind in ("demo", "live"):
        address, who = venue_of(GatewaySettings(_env_file=None, CT_HOST_TYPE=kind, **credentials))
        assert address == Address(f"{kind}.ctraderapi.com", 5035)
        assert who == Credentials("a", "b", "c", 4)
