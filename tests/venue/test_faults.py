"""Faults over real sockets: what a client is told wrongly, late, twice or never, and what really happened."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.errors import InputError
from tests.venue.client import Control, VenueClient, logged_in
from tests.venue.conftest import a_setting
from tests.venue.test_trading import begin_ms, executions, kinds
from venue.calendar import M5_MS
from venue.fault_names import FAULTS
from venue.faults import Fault
from venue.main import RunningVenue, serve
from venue.protocol import messages, model
from venue.settings import VenueSettings

SILENCE_S = 0.3  # nothing that was due takes so long on loopback; a slow machine only makes it longer


async def ordered(client: VenueClient, control: Control, **fields: Any) -> list[Any]:
    """Send an order with a stop, let a minute pass, and return all executions that were told."""
    ids = await client.symbol_ids()
    client.send(client.market_order(ids["EURUSD"], relativeStopLoss=900, **fields), "order")
    told = await client.collect()
    await control.step(await begin_ms(control) + 60_000)
    return [*told, *await client.collect()]


async def fired(control: Control) -> dict[str, int]:
    return dict((await control.get("/faults"))["fired"])


async def refusal(client: VenueClient, request: Any) -> str:
    answer = await client.ask(request)
    assert isinstance(answer, messages.ProtoOAErrorRes | messages.ProtoOAOrderErrorEvent)
    return str(answer.errorCode)


def trader(client: VenueClient) -> Any:
    return messages.ProtoOATraderReq(ctidTraderAccountId=client.account_id)


# -- orders and executions


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("accept_lost", ["ORDER_FILLED", "ORDER_ACCEPTED"]),
        ("accept_after_fill", ["ORDER_FILLED", "ORDER_ACCEPTED", "ORDER_ACCEPTED"]),
        ("fill_lost", ["ORDER_ACCEPTED", "ORDER_ACCEPTED"]),
        ("order_unanswered", []),
        ("execution_lost", []),
        ("execution_doubled", [k for k in ("ACCEPTED", "FILLED", "ACCEPTED") for _ in range(2)]),
    ],
)
async def test_what_is_told_of_an_order_is_wrong_and_the_order_is_not(
    client: VenueClient, control: Control, fault: str, told: list[str]
) -> None:
    """The position stands, with its stop, whatever the client was told: it must ask."""
    await control.fault(fault)
    events = await ordered(client, control)
    assert [kind.removeprefix("ORDER_") for kind in kinds(events)] == [k.removeprefix("ORDER_") for k in told]
    state = await control.get("/state")
    assert (state["open_positions"], state["unprotected"]) == (1, 0)


async def test_order_that_is_lost_never_happened(client: VenueClient, control: Control) -> None:
    """Silence again, but this time nothing is in the books: the client cannot tell the two apart."""
    await control.fault("order_lost", count=1)
    assert await ordered(client, control, clientOrderId="lost") == []
    assert (await control.get("/ledger"))["orders"] == []


async def test_answers_to_an_order_come_late_all_together(client: VenueClient, control: Control) -> None:
    """Longer than any client waits; the fill is long in the books by then."""
    await control.fault("order_answer_late", delay_ms=600_000)
    assert await ordered(client, control) == []
    await control.step(await begin_ms(control) + 600_000)
    assert kinds(executions(await client.collect())) == ["ORDER_ACCEPTED", "ORDER_FILLED", "ORDER_ACCEPTED"]


async def test_order_that_is_answered_with_an_error_may_have_been_executed(
    client: VenueClient, control: Control
) -> None:
    """TIMEOUT_ERROR says nothing about the deed."""
    await control.fault("order_refused_but_executed")
    error, filled, protected = await ordered(client, control)
    assert error.errorCode == "TIMEOUT_ERROR"
    assert kinds([filled, protected]) == ["ORDER_FILLED", "ORDER_ACCEPTED"]


async def test_fill_is_contradicted_by_a_rejection(client: VenueClient, control: Control) -> None:
    """Two executions of one order that cannot both be true; the books know which is."""
    await control.fault("execution_contradicted", message="fill")
    accepted, filled, rejected, _ = await ordered(client, control)
    assert kinds([accepted, filled, rejected]) == ["ORDER_ACCEPTED", "ORDER_FILLED", "ORDER_REJECTED"]
    assert (rejected.order.orderId, rejected.errorCode) == (filled.order.orderId, "TRADING_DISABLED")
    assert (await control.get("/state"))["open_positions"] == 1


async def test_fill_while_nobody_is_connected(
    client: VenueClient, control: Control, venue: RunningVenue
) -> None:
    """The connection ends after the acceptance, and the way back is shut until the fill has happened."""
    await control.fault("filled_while_disconnected", delay_ms=120_000)
    ids = await client.symbol_ids()
    client.send(client.market_order(ids["EURUSD"], relativeStopLoss=900), "order")
    assert kinds([(await client.receive())[0]]) == ["ORDER_ACCEPTED"]
    assert await client.left() == b""
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await VenueClient.connect(venue.ready)
    await control.step(await begin_ms(control) + 120_000)
    async with logged_in(venue.ready) as again:
        answer = await again.ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=again.account_id))
        assert len(answer.position) == 1


async def test_position_is_not_found_right_after_its_fill(client: VenueClient, control: Control) -> None:
    """A client that amends at once has to try again."""
    *_, protected = await ordered(client, control)
    amend = messages.ProtoOAAmendPositionSLTPReq(
        ctidTraderAccountId=client.account_id,
        positionId=protected.position.positionId,
        stopLoss=round(protected.position.stopLoss - 0.001, 5),
    )
    await control.fault("position_not_found", count=1)
    assert await refusal(client, amend) == "POSITION_NOT_FOUND"
    assert kinds([await client.ask(amend)]) == ["ORDER_REPLACED"]


# -- requests and sessions


async def test_burst_of_blocked_requests_has_an_end(client: VenueClient, control: Control) -> None:
    """The connection stays, and so does the session."""
    await control.fault("rate_limited", count=1, lasts_ms=1_000)
    assert [await refusal(client, trader(client)) for _ in range(3)] == ["BLOCKED_PAYLOAD_TYPE"] * 3
    await control.step(await begin_ms(control) + 1_000)
    assert isinstance(await client.ask(trader(client)), messages.ProtoOATraderRes)


async def test_maintenance_says_when_it_ends_or_does_not(client: VenueClient, control: Control) -> None:
    """In seconds, as the definition says of this message."""
    await control.fault("maintenance", count=1, lasts_ms=60_000)
    now_ms = (await control.get("/state"))["time_ms"]
    answer = await client.ask(trader(client))
    assert answer.errorCode == "SERVER_IS_UNDER_MAINTENANCE"
    assert answer.maintenanceEndTimestamp == (now_ms + 60_000) // 1_000
    await control.step(now_ms + 60_000)
    await control.fault("maintenance_open_end", count=1, lasts_ms=60_000)
    answer = await client.ask(trader(client))
    assert answer.errorCode == "SERVER_IS_UNDER_MAINTENANCE"
    assert not answer.HasField("maintenanceEndTimestamp")


async def test_any_request_can_be_refused_ignored_or_left_unanswered(
    client: VenueClient, control: Control
) -> None:
    """By its name in the Open API; all others are served as ever."""
    await control.fault("request_refused", message="ProtoOATraderReq", error_code="CH_SERVER_NOT_REACHABLE")
    await control.fault("request_ignored", message="ProtoOAAssetListReq")
    await control.fault("request_unanswered", message="ProtoOAAccountLogoutReq", count=1)
    assert await refusal(client, trader(client)) == "CH_SERVER_NOT_REACHABLE"
    client.send(messages.ProtoOAAssetListReq(ctidTraderAccountId=client.account_id), "assets")
    assert await client.collect() == []
    client.send(messages.ProtoOAAccountLogoutReq(ctidTraderAccountId=client.account_id), "logout")
    assert await client.collect() == []
    assert await refusal(client, messages.ProtoOAReconcileReq(ctidTraderAccountId=client.account_id)) == (
        "INVALID_REQUEST"  # the logout was carried out
    )


async def test_voided_token_ends_the_session_and_the_refresh_token_leads_back(
    client: VenueClient, control: Control, venue: RunningVenue
) -> None:
    """Somebody revoked it: the client finds out in mid-session, from two events."""
    ids = await client.symbol_ids()
    await client.subscribe(ids["EURUSD"])
    await control.fault("token_voided", count=1)
    await control.step(await begin_ms(control) + 10_000)
    await client.wait_for(messages.ProtoOAAccountsTokenInvalidatedEvent)
    await client.wait_for(messages.ProtoOAAccountDisconnectEvent)
    auth = messages.ProtoOAAccountAuthReq(
        ctidTraderAccountId=client.account_id, accessToken=venue.ready["access_token"]
    )
    assert await refusal(client, auth) == "CH_ACCESS_TOKEN_INVALID"
    pair = await client.ask(messages.ProtoOARefreshTokenReq(refreshToken=venue.ready["refresh_token"]))
    auth.accessToken = pair.accessToken
    assert isinstance(await client.ask(auth), messages.ProtoOAAccountAuthRes)


async def test_second_of_two_refreshers_is_refused(
    client: VenueClient, control: Control, venue: RunningVenue
) -> None:
    """Whoever comes second holds two dead tokens: only the account's owner can mend that."""
    await control.fault("refresh_raced", count=1)
    refresh = messages.ProtoOARefreshTokenReq(refreshToken=venue.ready["refresh_token"])
    assert await refusal(client, refresh) == "CH_ACCESS_TOKEN_INVALID"
    await client.wait_for(messages.ProtoOAAccountsTokenInvalidatedEvent)
    assert await refusal(client, refresh) == "CH_ACCESS_TOKEN_INVALID"


async def test_symbol_ids_change_behind_the_clients_back(
    client: VenueClient, control: Control, venue: RunningVenue
) -> None:
    """Who stored an id would trade another symbol, or none."""
    before = await client.symbol_ids()
    await client.subscribe(before["EURUSD"])
    await control.fault("symbol_ids_changed", count=1)
    await control.step(await begin_ms(control) + 10_000)
    await client.left()
    async with logged_in(venue.ready) as again:
        after = await again.symbol_ids()
        assert after.keys() == before.keys()
        assert not set(after.values()) & set(before.values())
        stale = messages.ProtoOASymbolByIdReq(
            ctidTraderAccountId=again.account_id, symbolId=[before["EURUSD"]]
        )
        assert await refusal(again, stale) == "SYMBOL_NOT_FOUND"


# -- connections


@pytest.mark.parametrize("byte", [0, 3, 11])
async def test_connection_ends_within_a_message_at_any_byte(
    client: VenueClient, control: Control, byte: int
) -> None:
    """In the length, in the envelope, or before either."""
    await control.fault("frame_cut", message="ProtoOAVersionRes", byte=byte)
    client.send(messages.ProtoOAVersionReq(), "v")
    whole = VenueClient.frame(messages.ProtoOAVersionRes(version="91"), "v")
    assert await client.left() == whole[:byte]


async def test_half_a_frame_holds_up_all_that_follows(client: VenueClient, control: Control) -> None:
    """The rest comes later, and nothing overtakes it: bytes keep their order."""
    await control.fault("frame_halved", message="ProtoOAVersionRes", byte=5, delay_ms=2_000)
    client.send(messages.ProtoOAVersionReq(), "v")
    client.send(trader(client), "t")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.reader.readexactly(6), SILENCE_S)
    await control.step(await begin_ms(control) + 2_000)
    assert [(await client.receive())[1] for _ in range(2)] == ["v", "t"]


async def test_frozen_link_stays_open_and_says_nothing(client: VenueClient, control: Control) -> None:
    """No end, no data: only a watchdog finds out. What is asked on it does not happen either."""
    ids = await client.symbol_ids()
    await control.fault("link_frozen", message="ProtoOAVersionReq", count=1)
    client.send(messages.ProtoOAVersionReq(), "v")
    client.send(client.market_order(ids["EURUSD"]), "order")
    await control.step(await begin_ms(control) + M5_MS)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.reader.read(1), SILENCE_S)
    assert (await control.get("/state"))["connections"] == 1
    assert (await control.get("/ledger"))["orders"] == []


async def test_connection_ends_in_its_handshake(control: Control, venue: RunningVenue) -> None:
    """The next one may get in."""
    await control.fault("handshake_closed", count=1)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await VenueClient.connect(venue.ready)
    async with logged_in(venue.ready) as client:
        assert isinstance(await client.ask(trader(client)), messages.ProtoOATraderRes)


# -- content


async def test_fields_and_values_of_another_version(client: VenueClient, control: Control) -> None:
    """A field too many, a field too few, and an enumeration's value that nobody knows."""
    version = messages.ProtoOAVersionReq()

    async def body_of_accept() -> Any:
        ids = await client.symbol_ids()
        client.send(client.market_order(ids["EURUSD"], clientOrderId="o"), "order")
        envelope = await client.receive_envelope()
        event = messages.ProtoOAExecutionEvent()
        event.ParseFromString(envelope.payload)
        return event

    await control.fault("field_unknown", count=1)
    assert (await body_of_accept()).order.clientOrderId == "o"
    await control.fault("field_missing", field="order.clientOrderId", count=1)
    assert not (await body_of_accept()).order.HasField("clientOrderId")
    await control.fault("enum_unknown", field="executionType", count=1)
    event = await body_of_accept()
    assert not event.HasField("executionType")  # a closed enumeration keeps it among the unknown fields
    assert (await fired(control)) == {"field_unknown": 1, "field_missing": 1, "enum_unknown": 1}
    assert isinstance(await client.ask(version), messages.ProtoOAVersionRes)


async def test_quotes_of_one_side_doubled_and_missing(client: VenueClient, control: Control) -> None:
    """Absent is not zero, twice is not two moves, and a symbol may fall silent alone."""
    ids = await client.symbol_ids()
    await client.subscribe(ids["EURUSD"], ids["GBPUSD"], ids["USDJPY"], bars=True)
    await client.collect()
    await control.fault("quotes_ask_only", symbol="EURUSD")
    await control.fault("quotes_missing", symbol="GBPUSD")
    await control.fault("quotes_doubled", symbol="USDJPY")
    await control.step(await begin_ms(control) + M5_MS)
    spots = await client.collect()
    euro = [spot for spot in spots if spot.symbolId == ids["EURUSD"]]
    yen = [spot.SerializeToString() for spot in spots if spot.symbolId == ids["USDJPY"]]
    assert euro
    assert all(spot.HasField("ask") and not spot.HasField("bid") and not spot.trendbar for spot in euro)
    assert not [spot for spot in spots if spot.symbolId == ids["GBPUSD"]]
    assert yen
    assert yen[::2] == yen[1::2]


async def test_history_lacks_what_has_just_closed(client: VenueClient, control: Control) -> None:
    """The truth about a bar may take a second to be there."""
    ids = await client.symbol_ids()
    await control.step(await begin_ms(control) + M5_MS + 1_000)
    request = messages.ProtoOAGetTrendbarsReq(
        ctidTraderAccountId=client.account_id,
        fromTimestamp=0,
        toTimestamp=2_000_000_000_000,
        period=model.M5,
        symbolId=ids["EURUSD"],
        count=10,
    )
    whole = (await client.ask(request)).trendbar
    await control.fault("history_late", count=1)
    assert list((await client.ask(request)).trendbar) == list(whole)[:-2]
    await control.fault("history_cut", count=1)
    assert list((await client.ask(request)).trendbar) == list(whole)[5:]


async def test_result_larger_than_the_official_packages_field(client: VenueClient, control: Control) -> None:
    """Its 32 bits wrap silently; the bytes have the whole number."""
    await ordered(client, control)
    request = messages.ProtoOAGetPositionUnrealizedPnLReq(ctidTraderAccountId=client.account_id)
    (true,) = (await client.ask(request)).positionUnrealizedPnL
    await control.fault("result_beyond_int32", count=1)
    client.send(request, "pnl")
    envelope = await client.receive_envelope()
    answer = messages.ProtoOAGetPositionUnrealizedPnLRes.FromString(envelope.payload)
    assert answer.positionUnrealizedPnL[0].netUnrealizedPnL == true.netUnrealizedPnL  # wrapped
    value, varint = true.netUnrealizedPnL + 2**32, b""
    while value:
        varint, value = varint + bytes([value & 0x7F | (0x80 if value > 0x7F else 0)]), value >> 7
    assert varint in envelope.payload


# -- all of them


OPTIONS: dict[str, dict[str, Any]] = {
    "delay_ms": {"delay_ms": 1},
    "lasts_ms": {"lasts_ms": 1},
    "error_code": {"error_code": "UNKNOWN_ERROR"},
}


async def listen(client: VenueClient, seen: set[int]) -> None:
    """Note which types of messages come, until the connection ends."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError, ssl.SSLError):
        while True:
            seen.add((await client.receive_envelope()).payloadType)


def current_tokens(venue: RunningVenue) -> dict[str, str]:
    """Return the first application's pair as it stands after what happened so far."""
    kept = orjson.loads((Path(venue.ready["ca_file"]).parent / "credentials.json").read_bytes())
    return {name: kept["grants"][0][name] for name in ("access_token", "refresh_token")}


async def provoke(venue: RunningVenue, control: Control, fault: Fault, symbol_ids: list[int]) -> None:
    """Do what clients do, until the fault has struck: log in, subscribe, trade, ask, refresh."""
    kept = dict(venue.ready) | current_tokens(venue)
    try:
        client = await VenueClient.connect(venue.ready)
    except (ConnectionError, ssl.SSLError):
        return
    account_id, seen = client.account_id, set[int]()
    listening = asyncio.create_task(listen(client, seen))
    version = messages.ProtoOAVersionReq()

    async def sent(*requests: Any) -> None:
        seen.discard(messages.ProtoOAVersionRes().payloadType)
        for request in (*requests, version):
            client.send(request, "q")
        for _ in range(2_000):
            if fault.fired or listening.done() or messages.ProtoOAVersionRes().payloadType in seen:
                return
            await asyncio.sleep(0.005)

    await sent(
        messages.ProtoOAApplicationAuthReq(clientId=kept["client_id"], clientSecret=kept["client_secret"]),
        messages.ProtoOAAccountAuthReq(ctidTraderAccountId=account_id, accessToken=kept["access_token"]),
        messages.ProtoOASubscribeSpotsReq(ctidTraderAccountId=account_id, symbolId=symbol_ids),
        messages.ProtoOASubscribeLiveTrendbarReq(
            ctidTraderAccountId=account_id, symbolId=symbol_ids[0], period=model.M5
        ),
        messages.ProtoOAAmendPositionSLTPReq(ctidTraderAccountId=account_id, positionId=1),
        client.market_order(symbol_ids[0], relativeStopLoss=900, clientOrderId="o"),
    )
    if not fault.fired:
        await control.step(await begin_ms(control) + 60_000)
        await sent(
            trader(client),
            messages.ProtoOAGetPositionUnrealizedPnLReq(ctidTraderAccountId=account_id),
            messages.ProtoOAGetTrendbarsReq(
                ctidTraderAccountId=account_id,
                fromTimestamp=0,
                toTimestamp=2_000_000_000_000,
                period=model.M5,
                symbolId=symbol_ids[0],
                count=10,
            ),
            messages.ProtoOARefreshTokenReq(refreshToken=kept["refresh_token"]),
        )
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    await client.close()


async def test_every_named_fault_strikes_in_a_minute_of_trading(tmp_path: Path) -> None:
    """A name in the table that nothing leads to would be a fault that is never tested."""
    settings = a_setting(tmp_path / "v", requests_per_s=10_000, history_requests_per_s=10_000)
    async with serve(settings) as venue:
        control, faults = Control(venue.ready), venue.exchange.faults
        for name, named in FAULTS.items():
            request: dict[str, Any] = {"fault": name, "count": 1}
            for option in named.needs:
                request |= OPTIONS[option]
            if not named.message:
                request["message"] = f"ProtoOATrader{'Req' if name.startswith('request_') else 'Res'}"
            async with logged_in(dict(venue.ready) | current_tokens(venue)) as client:
                symbol_ids = list((await client.symbol_ids()).values())
            fault = faults.ask(request)
            await provoke(venue, control, fault, symbol_ids)
            assert fault.fired, name
            faults.end_all()
            await control.step(await begin_ms(control) + 60_000)


def much_goes_wrong(folder: Path, seed: int) -> VenueSettings:
    """Return the settings of a venue with many faults."""
    folder.mkdir()
    wrong = folder / "faults.toml"
    wrong.write_text(
        f"seed = {seed}\n"
        + "".join(
            f'[[fault]]\nfault = "{name}"\nprobability = {probability}\n{more}\n'
            for name, probability, more in (
                ("quotes_missing", 0.1, ""),
                ("quotes_late", 0.1, "delay_ms = 700"),
                ("quotes_swapped", 0.1, ""),
                ("quotes_ask_only", 0.1, "lasts_ms = 5_000"),
                ("execution_doubled", 0.3, ""),
                ("field_missing", 0.3, ""),
                ("execution_late", 0.3, "delay_ms = 5_000"),
                ("request_refused", 0.3, 'message = "ProtoOATraderReq"\nerror_code = "UNKNOWN_ERROR"'),
            )
        )
    )
    return a_setting(folder, faults=wrong)


async def heard(settings: VenueSettings) -> list[bytes]:
    """Return every frame that a client gets that trades a little."""
    frames = list[bytes]()
    async with serve(settings) as venue, logged_in(venue.ready) as client:
        control = Control(venue.ready)
        ids = await client.symbol_ids()
        await client.subscribe(*ids.values(), bars=True)
        for turn in range(8):
            client.send(client.market_order(ids["EURUSD"], relativeStopLoss=300), f"o{turn}")
            client.send(trader(client), f"t{turn}")
            client.send(messages.ProtoOAVersionReq(), "before")
            await until_id(client, "before", frames)
            await control.step(await begin_ms(control) + 60_000)
            client.send(messages.ProtoOAVersionReq(), "after")
            await until_id(client, "after", frames)
        counts = await fired(control)
        assert all(counts.values()), counts
    return frames


async def until_id(client: VenueClient, client_msg_id: str, frames: list[bytes]) -> None:
    """Note all frames up to the one with this id."""
    while True:
        envelope = await client.receive_envelope()
        frames.append(envelope.SerializeToString())
        if envelope.clientMsgId == client_msg_id:
            return


async def test_same_seed_and_same_actions_give_the_same_bytes(tmp_path: Path) -> None:
    """What a fault led to can be had again, as often as it takes to understand it."""
    a, b, other = [
        await heard(much_goes_wrong(tmp_path / name, seed))
        for name, seed in (("a", 11), ("b", 11), ("other", 12))
    ]
    assert a == b
    assert len(a) > 150
    assert a != other


async def test_fault_of_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    """A venue without the faults that were asked for would prove the wrong thing."""
    with pytest.raises(InputError, match="VENUE_FAULTS"):
        async with serve(a_setting(tmp_path / "v", faults=tmp_path / "none.toml")):
            pass


async def test_senseless_fault_is_refused_at_the_control_door(control: Control) -> None:
    """And nothing of it stays."""
    status, answer = await control.call("POST", "/faults", {"fault": "fill_late"})
    assert (status, answer) == (400, {"error": "a fault cannot be had: fill_late needs delay_ms"})
    assert (await control.get("/faults"))["faults"] == []
    assert (await control.call("DELETE", "/faults"))[0] == 200
