"""The Open API door over real TLS sockets: who may ask what, and what a client is told."""

from __future__ import annotations

import asyncio
import ssl
import struct

import pytest

from tests.venue.client import Control, VenueClient, logged_in
from venue.calendar import M5_MS
from venue.main import RunningVenue
from venue.protocol import common, messages, model


async def refused(client: VenueClient, request: object) -> tuple[str, str]:
    """Return the code and the words of a refusal."""
    answer = await client.ask(request)
    assert isinstance(answer, messages.ProtoOAErrorRes | messages.ProtoOAOrderErrorEvent)
    return answer.errorCode, answer.description


# -- who may ask what


async def test_session_opens_in_the_documented_order(venue: RunningVenue) -> None:
    """Application first, then the account; every step too early or too late has its own code."""
    client = await VenueClient.connect(venue.ready)
    account_auth = messages.ProtoOAAccountAuthReq(
        ctidTraderAccountId=client.account_id, accessToken=venue.ready["access_token"]
    )
    application_auth = messages.ProtoOAApplicationAuthReq(
        clientId=venue.ready["client_id"], clientSecret=venue.ready["client_secret"]
    )
    trader = messages.ProtoOATraderReq(ctidTraderAccountId=client.account_id)
    assert (await refused(client, account_auth))[0] == "CH_CLIENT_NOT_AUTHENTICATED"
    wrong = messages.ProtoOAApplicationAuthReq(clientId=venue.ready["client_id"], clientSecret="no")
    assert (await refused(client, wrong))[0] == "CH_CLIENT_AUTH_FAILURE"
    assert isinstance(await client.ask(application_auth), messages.ProtoOAApplicationAuthRes)
    assert (await refused(client, application_auth))[0] == "CH_CLIENT_ALREADY_AUTHENTICATED"
    assert await refused(client, trader) == ("INVALID_REQUEST", "Trading account is not authorized")
    accounts = await client.ask(
        messages.ProtoOAGetAccountListByAccessTokenReq(accessToken=venue.ready["access_token"])
    )
    assert [each.ctidTraderAccountId for each in accounts.ctidTraderAccount] == [client.account_id]
    bad_token = messages.ProtoOAAccountAuthReq(ctidTraderAccountId=client.account_id, accessToken="no")
    assert (await refused(client, bad_token))[0] == "CH_ACCESS_TOKEN_INVALID"
    assert isinstance(await client.ask(account_auth), messages.ProtoOAAccountAuthRes)
    assert (await refused(client, account_auth))[0] == "ALREADY_LOGGED_IN"
    answer = await client.ask(trader)
    assert (answer.trader.balance, answer.trader.leverageInCents) == (1_000_000, 10_000)
    await client.close()


async def test_certificate_is_checked_against_the_venues_own_authority(venue: RunningVenue) -> None:
    """A client that verifies gets in with the authority's file, and not without it."""
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(
            venue.ready["host"], venue.ready["port"], ssl=ssl.create_default_context()
        )


async def test_logout_ends_the_account_and_not_the_connection(client: VenueClient) -> None:
    """The event completes the logout; whoever logs in again may go on."""
    out = messages.ProtoOAAccountLogoutReq(ctidTraderAccountId=client.account_id)
    assert isinstance(await client.ask(out), messages.ProtoOAAccountLogoutRes)
    await client.wait_for(messages.ProtoOAAccountDisconnectEvent)
    assert (await refused(client, out))[1] == "Trading account is not authorized"
    assert isinstance(await client.ask(messages.ProtoOAVersionReq()), messages.ProtoOAVersionRes)


async def test_refreshed_token_voids_the_old_one_everywhere(client: VenueClient, venue: RunningVenue) -> None:
    """A refresh token is used once, and every session of the account has to begin anew."""
    refresh = messages.ProtoOARefreshTokenReq(refreshToken=venue.ready["refresh_token"])
    async with logged_in(venue.ready) as other:
        answer = await client.ask(refresh)
        await other.wait_for(messages.ProtoOAAccountsTokenInvalidatedEvent)
        await other.wait_for(messages.ProtoOAAccountDisconnectEvent)
        auth = messages.ProtoOAAccountAuthReq(
            ctidTraderAccountId=client.account_id, accessToken=venue.ready["access_token"]
        )
        assert (await refused(other, auth))[0] == "CH_ACCESS_TOKEN_INVALID"
        auth.accessToken = answer.accessToken
        assert isinstance(await other.ask(auth), messages.ProtoOAAccountAuthRes)
    assert (await refused(client, refresh))[0] == "CH_ACCESS_TOKEN_INVALID"


# -- frames


async def test_heartbeat_may_come_first_and_is_not_answered(venue: RunningVenue) -> None:
    """The official client begins with one, and echoes each it gets: an answer would loop for ever."""
    client = await VenueClient.connect(venue.ready)
    client.send(common.ProtoHeartbeatEvent())
    await client.log_in()
    client.send(common.ProtoHeartbeatEvent())
    assert await client.collect() == []
    await client.close()


async def test_venue_that_has_nothing_to_say_sends_heartbeats(
    client: VenueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client takes a minute of silence for a dead link, and a closed market is silent."""
    monkeypatch.setattr("venue.server.HEARTBEAT_AFTER_S", 0.2)
    assert isinstance((await client.receive())[0], common.ProtoHeartbeatEvent)


async def test_silent_client_is_cut_off(client: VenueClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-open link would be kept for ever."""
    monkeypatch.setattr("venue.server.CLIENT_SILENCE_S_MAX", 0.2)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.receive()


async def test_frames_may_be_split_and_joined_anywhere(client: VenueClient) -> None:
    """TCP keeps no borders: one byte at a time and two frames at once are the same to the venue."""
    question = VenueClient.frame(messages.ProtoOAVersionReq(), "slow")
    for byte in question:
        client.send_bytes(bytes([byte]))
        await client.writer.drain()
    assert (await client.receive())[1] == "slow"
    client.send_bytes(VenueClient.frame(messages.ProtoOAVersionReq(), "a") * 2 + question[:7])
    client.send_bytes(question[7:])
    assert [(await client.receive())[1] for _ in range(3)] == ["a", "a", "slow"]


async def test_answer_without_an_id_to_a_request_without_one(client: VenueClient) -> None:
    """An id that nobody gave would be taken for another request's."""
    client.send(messages.ProtoOAVersionReq())
    _, client_msg_id = await client.receive()
    assert client_msg_id is None


async def test_unknown_and_broken_messages_are_refused_and_the_connection_lives(client: VenueClient) -> None:
    """One bad message is no reason to lose the session."""
    client.send_bytes(VenueClient.frame(messages.ProtoOAVersionReq(), "u", payload_type=9_999))
    answer, _ = await client.receive()
    assert answer.errorCode == "UNSUPPORTED_MESSAGE"
    broken = common.ProtoMessage(payloadType=2106, payload=b"\xff\xff", clientMsgId="b").SerializeToString()
    client.send_bytes(struct.pack(">I", len(broken)) + broken)
    answer, client_msg_id = await client.receive()
    assert (answer.errorCode, client_msg_id) == ("INVALID_REQUEST", "b")
    client.send_bytes(struct.pack(">I", 3) + b"\xff\xff\xff")
    answer, _ = await client.receive()
    assert isinstance(answer, common.ProtoErrorRes)
    assert isinstance(await client.ask(messages.ProtoOAVersionReq()), messages.ProtoOAVersionRes)


async def test_frame_that_is_too_long_ends_the_connection(client: VenueClient) -> None:
    """What follows an absurd length cannot be read as frames any more."""
    client.send_bytes(struct.pack(">I", 2**31))
    answer, _ = await client.receive()
    assert answer.errorCode == "FRAME_TOO_LONG"
    with pytest.raises(asyncio.IncompleteReadError):
        await client.receive()


async def test_too_many_history_requests_are_blocked_and_others_are_not(client: VenueClient) -> None:
    """Five at once are allowed; the sixth is told to wait, and only its kind."""
    ids = await client.symbol_ids()
    request = messages.ProtoOAGetTrendbarsReq(
        ctidTraderAccountId=client.account_id,
        fromTimestamp=0,
        toTimestamp=2_000_000_000_000,
        period=model.M5,
        symbolId=ids["EURUSD"],
        count=1,
    )
    for _ in range(5):
        assert isinstance(await client.ask(request), messages.ProtoOAGetTrendbarsRes)
    assert (await refused(client, request))[0] == "BLOCKED_PAYLOAD_TYPE"
    assert isinstance(await client.ask(messages.ProtoOAVersionReq()), messages.ProtoOAVersionRes)


# -- symbols


async def test_symbols_tell_their_terms_in_the_venues_units(client: VenueClient) -> None:
    """A client takes lots, steps and digits from here and nowhere else."""
    ids = await client.symbol_ids()
    answer = await client.ask(
        messages.ProtoOASymbolByIdReq(
            ctidTraderAccountId=client.account_id, symbolId=[ids["XAUUSD"], ids["EURUSD"]]
        )
    )
    gold, euro = answer.symbol
    assert (euro.lotSize, euro.minVolume, euro.stepVolume, euro.digits) == (10_000_000, 100_000, 100_000, 5)
    assert (euro.commissionType, euro.preciseTradingCommissionRate) == (model.USD_PER_LOT, 250_000_000)
    assert (gold.lotSize, gold.minVolume, gold.digits, gold.pipPosition) == (10_000, 100, 2, 0)
    assert (gold.commissionType, gold.preciseTradingCommissionRate) == (model.PERCENTAGE_OF_VALUE, 700)
    assert len(gold.schedule) == 5
    unknown = messages.ProtoOASymbolByIdReq(ctidTraderAccountId=client.account_id, symbolId=[1])
    assert await refused(client, unknown) == ("SYMBOL_NOT_FOUND", "Symbol not found with id 1")


async def test_conversion_chain_leads_from_the_quote_to_the_deposit(client: VenueClient) -> None:
    """A yen result is converted through USDJPY, a pound one to francs through two symbols."""
    assets = await client.ask(messages.ProtoOAAssetListReq(ctidTraderAccountId=client.account_id))
    numbers = {asset.name: asset.assetId for asset in assets.asset}
    chains = {("JPY", "USD"): ["USDJPY"], ("GBP", "CHF"): ["GBPUSD", "USDCHF"], ("USD", "USD"): []}
    for (first, last), names in chains.items():
        answer = await client.ask(
            messages.ProtoOASymbolsForConversionReq(
                ctidTraderAccountId=client.account_id, firstAssetId=numbers[first], lastAssetId=numbers[last]
            )
        )
        assert [symbol.symbolName for symbol in answer.symbol] == names


# -- prices


async def test_subscription_is_followed_at_once_by_the_last_prices(client: VenueClient) -> None:
    """A client knows both sides before the market moves, in a closed market too."""
    ids = await client.symbol_ids()
    await client.subscribe(ids["EURUSD"], stamps=False)
    event = await client.wait_for(messages.ProtoOASpotEvent)
    assert event.HasField("bid")
    assert event.HasField("ask")
    assert not event.HasField("timestamp")
    again = messages.ProtoOASubscribeSpotsReq(ctidTraderAccountId=client.account_id, symbolId=[ids["EURUSD"]])
    assert (await refused(client, again))[0] == "ALREADY_SUBSCRIBED"


async def test_live_bars_need_the_spots_and_end_as_the_bars_of_history(
    client: VenueClient, control: Control
) -> None:
    """What a client builds live must be what it fetches later, volume included."""
    ids = await client.symbol_ids()
    symbol_id = ids["USDJPY"]
    bars = messages.ProtoOASubscribeLiveTrendbarReq(
        ctidTraderAccountId=client.account_id, symbolId=symbol_id, period=model.M5
    )
    assert (await refused(client, bars))[0] == "INVALID_REQUEST"
    await client.subscribe(symbol_id, bars=True)
    await client.collect()
    begin_ms = (await control.get("/state"))["time_ms"] + 1
    await control.step(begin_ms + 3 * M5_MS - 1)
    live, bid = {}, 0
    for spot in await client.collect():
        assert len(spot.trendbar) == spot.HasField("bid")
        assert spot.HasField("timestamp")
        for bar in spot.trendbar:
            assert not bar.HasField("deltaClose")
            live[bar.utcTimestampInMinutes] = (bar, spot.bid)
    history = await client.ask(
        messages.ProtoOAGetTrendbarsReq(
            ctidTraderAccountId=client.account_id,
            fromTimestamp=0,
            toTimestamp=begin_ms + 3 * M5_MS,
            period=model.M5,
            symbolId=symbol_id,
            count=3,
        )
    )
    assert len(history.trendbar) == len(live) == 3
    for known in history.trendbar:
        bar, bid = live[known.utcTimestampInMinutes]
        assert (known.low, known.deltaOpen, known.deltaHigh) == (bar.low, bar.deltaOpen, bar.deltaHigh)
        assert known.low + known.deltaClose == bid
        assert 0 <= known.volume - bar.volume <= known.volume // 10  # a last move of the ask shows no bar
        assert not known.HasField("period")


async def test_history_counts_back_and_never_tells_what_is_to_come(
    client: VenueClient, control: Control
) -> None:
    """The forming bar is the last there is, however far into the future is asked."""
    ids = await client.symbol_ids()
    begin_ms = (await control.get("/state"))["time_ms"] + 1
    await control.step(begin_ms + 60_000)
    answer = await client.ask(
        messages.ProtoOAGetTrendbarsReq(
            ctidTraderAccountId=client.account_id,
            fromTimestamp=begin_ms,
            toTimestamp=begin_ms + 100 * M5_MS,
            period=model.M5,
            symbolId=ids["EURUSD"],
            count=50,
        )
    )
    opens = [bar.utcTimestampInMinutes * 60_000 for bar in answer.trendbar]
    assert len(opens) == 50
    assert opens == sorted(opens)
    assert opens[-1] == begin_ms
    assert (answer.symbolId, answer.period) == (ids["EURUSD"], model.M5)


async def test_window_without_count_is_bounded(client: VenueClient, control: Control) -> None:
    """Five weeks of M5 at most, as documented."""
    ids = await client.symbol_ids()
    request = messages.ProtoOAGetTrendbarsReq(
        ctidTraderAccountId=client.account_id,
        fromTimestamp=0,
        toTimestamp=2_000_000_000_000,
        period=model.M5,
        symbolId=ids["EURUSD"],
    )
    assert (await refused(client, request))[0] == "INCORRECT_BOUNDARIES"
    begin_ms = (await control.get("/state"))["time_ms"] + 1
    request.fromTimestamp, request.toTimestamp = begin_ms - 10 * M5_MS, begin_ms
    assert len((await client.ask(request)).trendbar) == 10


async def test_unsubscribed_symbol_falls_silent(client: VenueClient, control: Control) -> None:
    """Quotes cost bandwidth; who does not want them gets none."""
    ids = await client.symbol_ids()
    await client.subscribe(ids["EURUSD"], ids["GBPUSD"])
    await client.ask(
        messages.ProtoOAUnsubscribeSpotsReq(ctidTraderAccountId=client.account_id, symbolId=[ids["EURUSD"]])
    )
    await client.collect()
    await control.step((await control.get("/state"))["time_ms"] + M5_MS)
    spots = await client.collect()
    assert {spot.symbolId for spot in spots} == {ids["GBPUSD"]}
