"""Applications, accounts and tokens: who may do what, on which host, and for how long."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.clock import utc_now
from shared.errors import InputError
from tests.venue.client import Control, VenueClient, logged_in
from tests.venue.conftest import a_setting
from tests.venue.test_trading import begin_ms, executions
from venue.calendar import M5_MS
from venue.main import serve
from venue.protocol import messages, model

CALLBACK = "http://127.0.0.1:9/back?from=venue"
THREE = ("demo-hedged", "demo-netted", "live-hedged")


@asynccontextmanager
async def three_accounts(folder: Path, **fields: Any) -> AsyncIterator[dict[str, Any]]:
    """Yield the first line of a venue with two applications and three accounts."""
    async with serve(a_setting(folder / "v", accounts=THREE, applications=2, **fields)) as venue:
        yield venue.ready


def of_account(ready: dict[str, Any], rank: int) -> dict[str, Any]:
    """Return the first line as one who wants another account reads it."""
    account = ready["accounts"][rank]
    port = ready["live_port"] if account["environment"] == "live" else ready["port"]
    return {**ready, "account_id": account["account_id"], "port": port}


def account_auth(ready: dict[str, Any], access_token: str | None = None) -> Any:
    return messages.ProtoOAAccountAuthReq(
        ctidTraderAccountId=ready["account_id"], accessToken=access_token or ready["access_token"]
    )


def application_auth(ready: dict[str, Any], rank: int = 0) -> Any:
    application = ready["applications"][rank]
    return messages.ProtoOAApplicationAuthReq(
        clientId=application["client_id"], clientSecret=application["client_secret"]
    )


async def code_of(client: VenueClient, request: Any) -> str:
    answer = await client.ask(request)
    return str(getattr(answer, "errorCode", type(answer).__name__))


# -- accounts


async def test_account_is_served_by_its_own_host_and_listed_by_both(tmp_path: Path) -> None:
    """A demo account on the live host is the classic mistake: it cannot be routed."""
    async with three_accounts(tmp_path) as ready:
        demo, live = of_account(ready, 0), of_account(ready, 2)
        client = await VenueClient.connect(live)
        await client.ask(application_auth(ready))
        listed = await client.ask(
            messages.ProtoOAGetAccountListByAccessTokenReq(accessToken=ready["access_token"])
        )
        assert [each.isLive for each in listed.ctidTraderAccount] == [False, False, True]
        assert await code_of(client, account_auth(demo)) == "CANT_ROUTE_REQUEST"
        assert await code_of(client, account_auth(live)) == "ProtoOAAccountAuthRes"
        await client.close()
        async with logged_in(demo) as other, logged_in(live) as back:
            demo_ids, live_ids = await other.symbol_ids(), await back.symbol_ids()
        assert demo_ids.keys() == live_ids.keys()
        assert not set(demo_ids.values()) & set(live_ids.values())


async def test_accounts_of_one_connection_are_apart(tmp_path: Path) -> None:
    """Each has its own books, subscriptions and events; logging out of one leaves the other."""
    async with three_accounts(tmp_path) as ready:
        control = Control(ready)
        hedged, netted = of_account(ready, 0), of_account(ready, 1)
        async with logged_in(hedged) as client:
            await client.ask(account_auth(netted))
            ids = await client.symbol_ids()
            await client.subscribe(ids["EURUSD"])
            order = client.market_order(ids["EURUSD"])
            order.ctidTraderAccountId = netted["account_id"]
            await client.ask(order)
            await control.step(await begin_ms(control) + M5_MS)
            told = await client.collect()
            spots = [each for each in told if isinstance(each, messages.ProtoOASpotEvent)]
            assert {spot.ctidTraderAccountId for spot in spots} == {hedged["account_id"]}
            assert {each.ctidTraderAccountId for each in executions(told)} == {netted["account_id"]}
            state = await control.get("/state")
            assert [each["open_positions"] for each in state["accounts"].values()] == [0, 1, 0]
            assert (await control.get("/ledger"))["deals"] == []
            books = await control.get(f"/ledger?account={netted['account_id']}")
            assert len(books["deals"]) == 1
            kinds = [
                (await client.ask(messages.ProtoOATraderReq(ctidTraderAccountId=number))).trader.accountType
                for number in (hedged["account_id"], netted["account_id"])
            ]
            assert kinds == [model.HEDGED, model.NETTED]
            await client.ask(messages.ProtoOAAccountLogoutReq(ctidTraderAccountId=hedged["account_id"]))
            reconcile = messages.ProtoOAReconcileReq(ctidTraderAccountId=netted["account_id"])
            assert len((await client.ask(reconcile)).position) == 1
        assert (await control.call("GET", "/ledger?account=1"))[0] == 404


async def test_folder_belongs_to_its_accounts_and_they_come_back(tmp_path: Path) -> None:
    """Books of an account that is not asked for any more would be lost without a word."""
    async with three_accounts(tmp_path) as ready:
        pass
    async with three_accounts(tmp_path) as again:
        assert again == ready
    with pytest.raises(InputError, match="other accounts"):
        async with serve(a_setting(tmp_path / "v", accounts=("demo-hedged",))):
            pass
    (tmp_path / "v" / "credentials.json").write_text("{}")
    with pytest.raises(InputError, match="use another folder"):
        async with three_accounts(tmp_path):
            pass


# -- tokens


def browser(ready: dict[str, Any]) -> httpx.AsyncClient:
    """Return a client of the HTTPS door that trusts the venue's authority."""
    context = ssl.create_default_context(cafile=ready["ca_file"])
    return httpx.AsyncClient(base_url=f"https://{ready['host']}:{ready['rest_port']}", verify=context)


async def consented(web: httpx.AsyncClient, application: dict[str, Any], scope: str = "trading") -> str:
    """Return the code to which the consent page leads."""
    asked = {"client_id": application["client_id"], "redirect_uri": CALLBACK, "scope": scope}
    page = await web.get("/apps/auth", params=asked)
    assert page.status_code == 200
    assert f"<b>{scope}</b>" in page.text
    answer = await web.post("/apps/auth", params=asked, data={"consent": "allow"})
    assert answer.status_code == 302
    address = httpx.URL(answer.headers["location"])
    assert address.params["from"] == "venue"  # what the address had is kept
    return str(address.params["code"])


def for_code(application: dict[str, Any], code: str) -> dict[str, str]:
    return {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "client_id": application["client_id"],
        "client_secret": application["client_secret"],
    }


async def test_consent_leads_to_a_code_and_the_code_to_tokens_once(tmp_path: Path) -> None:
    """Each consent is a grant of its own: the first application's tokens live on."""
    async with three_accounts(tmp_path) as ready, browser(ready) as web:
        application = ready["applications"][1]
        code = await consented(web, application)
        told = (await web.get("/apps/token", params=for_code(application, code))).json()
        assert told["accessToken"] == told["access_token"]
        assert told["refreshToken"] == told["refresh_token"]
        assert (told["expiresIn"], told["tokenType"], told["errorCode"]) == (2_628_000, "bearer", None)
        again = await web.get("/apps/token", params=for_code(application, code))
        assert (again.status_code, again.json()["errorCode"]) == (400, "ACCESS_DENIED")
        client = await VenueClient.connect(ready)
        await client.ask(application_auth(ready, 1))
        foreign = await code_of(client, account_auth(ready))
        assert foreign == "CH_ACCESS_TOKEN_INVALID"  # a token of another application
        assert await code_of(client, account_auth(ready, told["accessToken"])) == "ProtoOAAccountAuthRes"
        await client.close()
        async with logged_in(ready):
            pass


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"client_secret": "no"}, "CH_CLIENT_AUTH_FAILURE"),
        ({"redirect_uri": "http://127.0.0.1:9/other"}, "ACCESS_DENIED"),
        ({"code": "guess"}, "ACCESS_DENIED"),
        ({"grant_type": "password"}, "INVALID_REQUEST"),
    ],
)
async def test_wrong_call_for_tokens_is_refused_with_a_code(
    tmp_path: Path, fields: dict[str, str], code: str
) -> None:
    """Clients read the JSON, whatever the status is."""
    async with three_accounts(tmp_path) as ready, browser(ready) as web:
        application = ready["applications"][0]
        asked = for_code(application, await consented(web, application)) | fields
        answer = await web.get("/apps/token", params=asked)
        assert (answer.status_code, answer.json()["errorCode"]) == (400, code)
        assert answer.json()["description"]


async def test_code_that_is_a_minute_old_is_worthless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes through browsers and logs."""
    monkeypatch.setattr("venue.rest.CODE_LIFE_S", -1.0)
    async with three_accounts(tmp_path) as ready, browser(ready) as web:
        application = ready["applications"][0]
        asked = for_code(application, await consented(web, application))
        assert (await web.get("/apps/token", params=asked)).json()["errorCode"] == "ACCESS_DENIED"


async def test_consent_page_shows_what_it_is_given_as_text_and_takes_known_applications(
    tmp_path: Path,
) -> None:
    """An address is shown to a person: it must not bring its own buttons."""
    async with three_accounts(tmp_path) as ready, browser(ready) as web:
        client_id = ready["applications"][0]["client_id"]
        nasty = {"client_id": client_id, "redirect_uri": 'http://h/"><script>'}
        assert "<script>" not in (await web.get("/apps/auth", params=nasty)).text
        unknown = await web.get("/apps/auth", params={"client_id": "x", "redirect_uri": CALLBACK})
        assert unknown.json()["errorCode"] == "CH_OA_CLIENT_NOT_FOUND"
        for address in ("javascript:alert(1)", "http://[", ""):
            answer = await web.get("/apps/auth", params={"client_id": client_id, "redirect_uri": address})
            assert answer.json()["errorCode"] == "INVALID_REQUEST"
        denied = await web.post(
            "/apps/auth", params={"client_id": client_id, "redirect_uri": CALLBACK}, data={"consent": "deny"}
        )
        assert httpx.URL(denied.headers["location"]).params["error"] == "access_denied"


async def test_refresh_over_https_ends_the_sessions_of_the_old_token(tmp_path: Path) -> None:
    """Both accounts of both connections, and nobody else's."""
    async with three_accounts(tmp_path) as ready, browser(ready) as web:
        demo, live = of_account(ready, 0), of_account(ready, 2)
        own = (
            await web.get(
                "/apps/token",
                params=for_code(ready["applications"][1], await consented(web, ready["applications"][1])),
            )
        ).json()
        third = await VenueClient.connect(ready)
        await third.ask(application_auth(ready, 1))
        await third.ask(account_auth(ready, own["accessToken"]))
        async with logged_in(demo) as first, logged_in(live) as second:
            application = ready["applications"][0]
            asked = {
                "grant_type": "refresh_token",
                "refresh_token": ready["refresh_token"],
                "client_id": application["client_id"],
                "client_secret": application["client_secret"],
            }
            new = (await web.get("/apps/token", params=asked)).json()
            for client in (first, second):
                ended = await client.wait_for(messages.ProtoOAAccountsTokenInvalidatedEvent)
                assert list(ended.ctidTraderAccountIds) == [client.account_id]
                await client.wait_for(messages.ProtoOAAccountDisconnectEvent)
            assert await code_of(first, account_auth(demo)) == "CH_ACCESS_TOKEN_INVALID"
            assert await code_of(first, account_auth(demo, new["accessToken"])) == "ProtoOAAccountAuthRes"
            used = (await web.get("/apps/token", params=asked)).json()
            assert used["errorCode"] == "CH_ACCESS_TOKEN_INVALID"
        trader = messages.ProtoOATraderReq(ctidTraderAccountId=ready["account_id"])
        assert await code_of(third, trader) == "ProtoOATraderRes"
        await third.close()


async def test_token_that_may_only_look_does_not_trade(tmp_path: Path) -> None:
    """Scope `accounts`: the list says so, and a trade is refused as from nobody."""
    async with three_accounts(tmp_path) as ready, browser(ready) as web:
        application = ready["applications"][0]
        code = await consented(web, application, scope="accounts")
        token = (await web.get("/apps/token", params=for_code(application, code))).json()["accessToken"]
        async with logged_in({**ready, "access_token": token}) as client:
            listed = await client.ask(messages.ProtoOAGetAccountListByAccessTokenReq(accessToken=token))
            assert listed.permissionScope == model.SCOPE_VIEW
            ids = await client.symbol_ids()
            assert await code_of(client, client.market_order(ids["EURUSD"])) == "INVALID_REQUEST"


async def test_token_whose_life_is_over_ends_its_sessions_and_is_told_as_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not void but old: another code, and the refresh token still leads to a new one."""
    async with three_accounts(tmp_path, token_life_s=3_600) as ready, logged_in(ready) as client:
        an_hour_later = utc_now() + timedelta(seconds=3_601)
        monkeypatch.setattr("venue.credentials.utc_now", lambda: an_hour_later)
        await client.wait_for(messages.ProtoOAAccountsTokenInvalidatedEvent)
        assert await code_of(client, account_auth(ready)) == "OA_AUTH_TOKEN_EXPIRED"
        pair = await client.ask(messages.ProtoOARefreshTokenReq(refreshToken=ready["refresh_token"]))
        assert pair.expiresIn == 3_600
        assert await code_of(client, account_auth(ready, pair.accessToken)) == "ProtoOAAccountAuthRes"


async def test_profile_belongs_to_a_token(tmp_path: Path) -> None:
    """Whose accounts they are is a number, and only for who holds the token."""
    async with three_accounts(tmp_path) as ready, logged_in(ready) as client:
        known = messages.ProtoOAGetCtidProfileByTokenReq(accessToken=ready["access_token"])
        assert (await client.ask(known)).profile.userId > 0
        unknown = messages.ProtoOAGetCtidProfileByTokenReq(accessToken="no")
        assert await code_of(client, unknown) == "CH_ACCESS_TOKEN_INVALID"
