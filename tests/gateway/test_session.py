"""The session on the venue over real TLS: who is let in, what is learned, what is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.gateway import link as link_module
from services.gateway import tokens as tokens_module
from services.gateway.access import Credentials, asked, open_link
from services.gateway.inbox import Inbox
from services.gateway.link import Received
from services.gateway.main import venue_of
from services.gateway.protocol import oa
from services.gateway.rate import Limits
from services.gateway.refusals import SessionEndedError
from services.gateway.session import Session
from services.gateway.settings import GatewaySettings
from services.gateway.transport import Address
from shared.clock import monotonic_s
from shared.errors import InputError, UnavailableError
from tests.gateway.builders import address_of, credentials_of
from tests.gateway.loop import on_loop
from tests.venue.client import Control
from tests.venue.conftest import a_setting
from venue.calendar import is_open
from venue.main import RunningVenue, serve

EURO, GOLD = "EURUSD", "XAUUSD"
BOTH = (EURO, GOLD)


@asynccontextmanager
async def a_session(
    venue: RunningVenue, folder: Path, *symbols: str, who: Credentials | None = None
) -> AsyncIterator[tuple[Session, Inbox[Received]]]:
    inbox: Inbox[Received] = Inbox()
    who = who or credentials_of(venue.ready, folder / "tokens")
    link = await open_link(address_of(venue.ready), who, inbox)
    try:
        yield await Session.open(link, who, "main", symbols or BOTH), inbox
    finally:
        link.abort("the test is over")


@on_loop
async def test_rate_limit_of_the_venue_is_kept(tmp_path: Path) -> None:
    """A flood of questions is answered without one being refused."""
    async with (
        serve(a_setting(tmp_path / "venue")) as venue,
        a_session(venue, tmp_path, EURO) as (session, _),
    ):
        now_ms = venue.exchange.now_ms
        began_s = monotonic_s()
        await asyncio.gather(
            *(session.read_trader() for _ in range(25)), *(session.positions(10.0) for _ in range(25))
        )
        assert monotonic_s() - began_s > 0.9
        await asyncio.gather(*(session.closes_since(now_ms, now_ms) for _ in range(6)))


@on_loop
async def test_questions_that_the_venue_finds_too_many_are_asked_again_when_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit is hit on purpose: it names the seconds, and every question is answered in the end."""
    async with serve(a_setting(tmp_path / "venue")) as venue, a_session(venue, tmp_path, EURO):
        monkeypatch.setattr(link_module, "LIMITS", Limits(per_s=1e6, burst=1e6))
        async with a_session(venue, tmp_path, EURO) as (session, _):
            began_s = monotonic_s()
            asked = [session.positions(10.0) for _ in range(70)]
            assert await asyncio.gather(*asked) == [[]] * 70
            assert monotonic_s() - began_s > 1.0


# -- the session


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"client_secret": "wrong"}, "CH_CLIENT_AUTH_FAILURE: .* check CT_CLIENT_ID and CT_CLIENT_SECRET"),
        (
            {"access_token": "of-last-year", "refresh_token": "of-before"},
            "refresh token is refused; grant access again",
        ),
        ({"account_id": 1}, r"CT_ACCOUNT_ID: 1 is not granted by this token; granted: \d+"),
    ],
)
@on_loop
async def test_wrong_credentials_are_fatal_and_name_the_settings(
    tmp_path: Path, wrong: dict[str, Any], says: str
) -> None:
    """Trying again would not help, and may block the application."""
    async with serve(a_setting(tmp_path / "venue")) as venue:
        who = credentials_of(venue.ready | wrong, tmp_path / "tokens")
        with pytest.raises(InputError, match=says) as caught:
            async with a_session(venue, tmp_path, who=who):
                pass
        for name in ("client_secret", "access_token", "refresh_token"):
            assert venue.ready[name] not in str(caught.value)


@on_loop
async def test_account_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    """Who means to trade on a demo account must not trade on a live one, nor the reverse."""
    async with serve(a_setting(tmp_path / "venue")) as venue:
        who = replace(credentials_of(venue.ready, tmp_path / "tokens"), is_live=True)
        with pytest.raises(InputError, match="is a demo account: set CT_HOST_TYPE=demo"):
            async with a_session(venue, tmp_path, who=who):
                pass
        async with a_session(venue, tmp_path, who=replace(who, is_live=False)):
            pass


@on_loop
async def test_what_is_so_already_is_as_good_as_done(tmp_path: Path) -> None:
    """Authorised, logged in, subscribed: told twice, the venue says "already", and that is no failure."""
    async with serve(a_setting(tmp_path / "venue")) as venue, a_session(venue, tmp_path) as (session, _):
        who = credentials_of(venue.ready, tmp_path / "tokens")
        again = await Session.open(session.link, who, "main", BOTH)
        assert list(again.contracts) == list(BOTH)
        application = oa.ProtoOAApplicationAuthReq(clientId=who.client_id, clientSecret=who.client_secret)
        await asked(session.link.request, application)


# -- tokens


@on_loop
async def test_token_that_is_refused_is_refreshed_and_the_new_pair_kept(tmp_path: Path) -> None:
    """The next start finds the pair of the last refresh, although the environment has the old one."""
    async with serve(a_setting(tmp_path / "venue")) as venue:
        given, pairs = venue.ready | {"access_token": "expired"}, []
        for _ in range(2):
            who = credentials_of(given, tmp_path / "tokens")
            async with a_session(venue, tmp_path, who=who) as (session, _):
                assert (await session.read_trader()).balance == 10_000
                pairs.append(who.tokens.current())
        assert pairs[0] == pairs[1]
        assert pairs[0].access_token not in (given["access_token"], venue.ready["access_token"])
        assert pairs[0].refresh_token != venue.ready["refresh_token"]


@on_loop
async def test_token_is_refreshed_before_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At three quarters of its life: it still works, and nobody has to notice."""
    async with serve(a_setting(tmp_path / "venue")) as venue:
        who = credentials_of(venue.ready, tmp_path / "tokens")
        assert who.tokens.current().access_token == venue.ready["access_token"]
        monkeypatch.setattr(tokens_module, "DUE_AT", 0.0)
        async with a_session(venue, tmp_path, who=who) as (session, _):
            assert (await session.read_trader()).balance == 10_000
        assert who.tokens.current().access_token != venue.ready["access_token"]


@on_loop
async def test_two_gateways_with_one_grant_refresh_it_once(tmp_path: Path) -> None:
    """The second one takes the pair that the first has got: a refresh token works once."""
    async with serve(a_setting(tmp_path / "venue")) as venue:
        given = venue.ready | {"access_token": "expired"}
        gateways = [credentials_of(given, tmp_path / "tokens") for _ in range(4)]
        sessions = [a_session(venue, tmp_path, who=who) for who in gateways]
        async with AsyncExitStack() as stack:
            opened = await asyncio.gather(*(stack.enter_async_context(each) for each in sessions))
            assert [(await session.read_trader()).balance for session, _ in opened] == [10_000] * 4


@on_loop
async def test_session_ends_when_the_venue_says_so_in_any_answer(tmp_path: Path) -> None:
    """The word that the account was dropped may be lost; what is asked for next tells it too."""
    async with serve(a_setting(tmp_path / "venue")) as venue, a_session(venue, tmp_path) as (session, _):
        assert await session.is_authorised()
        await session.link.request(oa.ProtoOAAccountLogoutReq(ctidTraderAccountId=venue.ready["account_id"]))
        with pytest.raises(SessionEndedError, match="not authorized"):
            await session.read_trader()
        assert session.ended.is_set()
        assert not session.link.ended.is_set()


@on_loop
async def test_unknown_symbol_is_named(tmp_path: Path) -> None:
    """The universe is traded exactly or not at all."""
    async with serve(a_setting(tmp_path / "venue")) as venue:
        with pytest.raises(
            InputError, match=r"SYMBOLS: the venue has no enabled EURUSDm, BTCUSD; it offers EURUSD"
        ):
            async with a_session(venue, tmp_path, "EURUSDm", GOLD, "BTCUSD"):
                pass


@on_loop
async def test_session_learns_terms_and_subscribes(tmp_path: Path) -> None:
    """Contracts in the book's order, the balance to the cent, and quotes with stamps."""
    async with (
        serve(a_setting(tmp_path / "venue")) as venue,
        a_session(venue, tmp_path, GOLD, EURO) as (session, inbox),
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
    async with serve(settings) as venue, a_session(venue, tmp_path, EURO, GOLD) as (session, _):
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
        a_session(venue, tmp_path, EURO) as (s, _),
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
    pair = {"access_token": "c1234567", "refresh_token": "d1234567"}
    path.write_text(json.dumps({**told, **pair, "account_id": 4}))
    address, who = venue_of(settings)
    assert (address, who.account_id, who.is_live) == (Address("::1", 5, Path("/ca.pem")), 4, None)


def test_real_venue_is_the_official_host_with_the_platforms_trust(tmp_path: Path) -> None:
    """Demo and live differ in the host alone; no CA file of our own may stand in for the platform's."""
    names = ("CT_CLIENT_ID", "CT_CLIENT_SECRET", "CT_ACCESS_TOKEN", "CT_REFRESH_TOKEN", "CT_ACCOUNT_ID")
    credentials = dict(zip(names, ("a", "b", "c", "d", "4"), strict=True))
    for kind in ("demo", "live"):
        settings = GatewaySettings(_env_file=None, CT_HOST_TYPE=kind, token_dir=tmp_path, **credentials)
        address, who = venue_of(settings)
        assert address == Address(f"{kind}.ctraderapi.com", 5035)
        assert (who.client_id, who.client_secret, who.account_id) == ("a", "b", 4)
        assert who.is_live is (kind == "live")
        pair = who.tokens.current()
        assert (pair.access_token, pair.refresh_token) == ("c", "d")
