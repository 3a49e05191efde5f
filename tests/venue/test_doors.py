"""The same venue over WebSocket, with protobuf on the port of the frames and as JSON on its own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage

from tests.venue.client import Control, VenueClient, logged_in
from tests.venue.test_trading import begin_ms
from venue.calendar import M5_MS
from venue.main import RunningVenue
from venue.protocol import common, decode, messages, model

ANSWER_S = 10.0


@asynccontextmanager
async def web_socket(ready: dict[str, Any], port: str) -> AsyncIterator[ClientConnection]:
    """Yield a connection of the library that others would use too; the certificate is checked."""
    context = ssl.create_default_context(cafile=ready["ca_file"])
    async with connect(f"wss://{ready['host']}:{ready[port]}", ssl=context) as connection:
        yield connection


class JsonClient:
    """Asks in JSON; what was not asked for is kept in `events`."""

    def __init__(self, connection: ClientConnection, ready: dict[str, Any]) -> None:
        self.connection, self.ready = connection, ready
        self.account_id = ready["account_id"]
        self.events: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(ANSWER_S):
            text = await self.connection.recv()
        assert isinstance(text, str)
        return dict(orjson.loads(text))

    async def ask(self, payload_type: int, **payload: Any) -> dict[str, Any]:
        client_msg_id = f"j{payload_type}"
        await self.connection.send(
            orjson.dumps(
                {"clientMsgId": client_msg_id, "payloadType": payload_type, "payload": payload}
            ).decode()
        )
        while (told := await self.receive()).get("clientMsgId") != client_msg_id:
            self.events.append(told)
        return told

    async def log_in(self) -> None:
        ready = self.ready
        answer = await self.ask(2100, clientId=ready["client_id"], clientSecret=ready["client_secret"])
        assert answer == {"clientMsgId": "j2100", "payloadType": 2101, "payload": {}}
        await self.ask(2102, ctidTraderAccountId=self.account_id, accessToken=ready["access_token"])


@pytest.fixture
async def json_client(venue: RunningVenue) -> AsyncIterator[JsonClient]:
    async with web_socket(venue.ready, "json_port") as connection:
        client = JsonClient(connection, venue.ready)
        await client.log_in()
        yield client


async def asked(connection: ClientConnection, request: Message) -> Message:
    """Ask in protobuf: one binary message is one envelope, without a length."""
    await connection.send(VenueClient.frame(request, "w")[4:])
    async with asyncio.timeout(ANSWER_S):
        content = await connection.recv()
    assert isinstance(content, bytes)
    answer = decode(common.ProtoMessage.FromString(content))
    assert answer is not None
    return answer


# -- protobuf


async def test_protobuf_is_spoken_over_web_socket_on_the_port_of_the_frames(venue: RunningVenue) -> None:
    """Networks that let nothing else out let this out; the messages are the same."""
    ready = venue.ready
    async with web_socket(ready, "port") as connection:
        await asked(
            connection,
            messages.ProtoOAApplicationAuthReq(
                clientId=ready["client_id"], clientSecret=ready["client_secret"]
            ),
        )
        await asked(
            connection,
            messages.ProtoOAAccountAuthReq(
                ctidTraderAccountId=ready["account_id"], accessToken=ready["access_token"]
            ),
        )
        told = await asked(connection, messages.ProtoOATraderReq(ctidTraderAccountId=ready["account_id"]))
    async with logged_in(ready) as client:
        assert told == await client.ask(messages.ProtoOATraderReq(ctidTraderAccountId=ready["account_id"]))


async def test_message_in_fragments_and_a_ping_between_them(venue: RunningVenue) -> None:
    """What the protocol allows a client to do, the venue takes."""
    content = VenueClient.frame(messages.ProtoOAVersionReq(), "w")[4:]
    async with web_socket(venue.ready, "port") as connection:
        await connection.send([content[:3], content[3:]])
        await (await connection.ping())
        answer = common.ProtoMessage.FromString(await connection.recv())
        assert isinstance(decode(answer), messages.ProtoOAErrorRes)  # nobody is logged in yet


async def test_text_that_is_no_web_socket_ends_the_connection(venue: RunningVenue) -> None:
    """Frames on the port for JSON, and HTTP that is none."""
    ready = venue.ready
    context = ssl.create_default_context(cafile=ready["ca_file"])
    for port, content in (
        ("json_port", VenueClient.frame(messages.ProtoOAVersionReq(), "v")),
        ("json_port", b"GET / HTTP/1.1\r\n\r\n"),
        ("port", b"GET \x00\xff\r\n\r\n"),
    ):
        reader, writer = await asyncio.open_connection(ready["host"], ready[port], ssl=context)
        writer.write(content)
        async with asyncio.timeout(ANSWER_S):
            told = await reader.read()
        assert b"101" not in told
        writer.close()
        await writer.wait_closed()


# -- JSON


async def test_json_says_what_protobuf_says(json_client: JsonClient, venue: RunningVenue) -> None:
    """Field by field, with numbers as numbers: the two forms are one venue."""
    account = {"ctidTraderAccountId": json_client.account_id}
    async with logged_in(venue.ready) as client:
        ids = await client.symbol_ids()
        for request in (
            messages.ProtoOASymbolsListReq(**account),
            messages.ProtoOASymbolByIdReq(**account, symbolId=list(ids.values())),
            messages.ProtoOATraderReq(**account),
            messages.ProtoOAAssetListReq(**account),
            messages.ProtoOAReconcileReq(**account),
        ):
            payload = json_format.MessageToDict(request, use_integers_for_enums=True)
            payload.pop("payloadType", None)
            told = await json_client.ask(request.payloadType, **payload)
            known = await client.ask(request)
            assert told["payloadType"] == known.payloadType
            assert json_format.ParseDict(told["payload"], type(known)()) == known
            assert told["payload"]["ctidTraderAccountId"] == json_client.account_id  # no string


async def test_order_in_json_with_names_for_numbers(json_client: JsonClient, control: Control) -> None:
    """Clients send enumerations by name too, and numbers as strings."""
    symbols = (await json_client.ask(2114, ctidTraderAccountId=str(json_client.account_id)))["payload"][
        "symbol"
    ]
    (symbol_id,) = [each["symbolId"] for each in symbols if each["symbolName"] == "EURUSD"]
    accepted = await json_client.ask(
        2106,
        ctidTraderAccountId=json_client.account_id,
        symbolId=symbol_id,
        orderType="MARKET",
        tradeSide=1,
        volume="100000",
        relativeStopLoss=900,
        aFieldOfTomorrow=1,
    )
    assert accepted["payloadType"] == 2126
    assert accepted["payload"]["executionType"] == model.ORDER_ACCEPTED
    await control.step(await begin_ms(control) + M5_MS)
    filled, protected = await json_client.receive(), await json_client.receive()
    assert filled["clientMsgId"] == "j2106"
    assert filled["payload"]["deal"]["executionPrice"] == filled["payload"]["position"]["price"]
    assert "clientMsgId" not in protected


async def test_what_is_wrong_in_json_is_refused_and_the_connection_lives(json_client: JsonClient) -> None:
    """As it is in protobuf: what can be answered has its id, what cannot has none."""
    await json_client.connection.send("{")
    assert (await json_client.receive())["payload"]["errorCode"] == "INVALID_REQUEST"
    await json_client.connection.send('{"payloadType": "2104"}')
    assert (await json_client.receive())["payloadType"] == 50
    unknown = await json_client.ask(9_999)
    assert unknown["payload"]["errorCode"] == "UNSUPPORTED_MESSAGE"
    for payload in ({"symbolId": "x"}, {"symbolId": {}}, {}):
        answer = await json_client.ask(2106, **payload)
        assert answer["payload"]["errorCode"] == "INVALID_REQUEST"
    await json_client.connection.send('{"payloadType": 51, "payload": {}}')  # a heartbeat is not answered
    assert (await json_client.ask(2104))["payload"] == {"version": "91"}
    assert json_client.events == []


async def test_waiting_time_of_a_refusal_is_told_in_both_forms(
    json_client: JsonClient, venue: RunningVenue
) -> None:
    """The official package does not know the field; it is there all the same."""
    account = {"ctidTraderAccountId": json_client.account_id}
    window = {"fromTimestamp": 0, "toTimestamp": 1, "symbolId": 1, "period": 5}
    for _ in range(6):
        answer = await json_client.ask(2137, **account, **window)
    assert answer["payload"]["errorCode"] == "BLOCKED_PAYLOAD_TYPE"
    assert answer["payload"]["retryAfter"] == 1
    async with logged_in(venue.ready) as client:
        for _ in range(6):
            refused = await client.ask(messages.ProtoOAGetTrendbarsReq(**account, **window))
        assert refused.SerializeToString().endswith(b"\x30\x01")  # field 6: 1


async def test_faults_strike_here_too(json_client: JsonClient, control: Control) -> None:
    """At any byte of what is on the wire, whatever its form."""
    await control.fault("message_doubled", message="ProtoOAVersionRes", count=1)
    first = await json_client.ask(2104)
    assert await json_client.receive() == first
    await control.fault("frame_cut", message="ProtoOAVersionRes", byte=9)
    with pytest.raises(ConnectionClosed):
        await json_client.ask(2104)


async def test_dead_venue_is_no_web_socket(venue: RunningVenue, control: Control) -> None:
    """A client that is turned away in its handshake is told so by its library."""
    await control.fault("handshake_closed", count=1)
    with pytest.raises((OSError, InvalidMessage)):
        async with web_socket(venue.ready, "json_port"):
            pass
