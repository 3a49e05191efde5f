"""A small raw client of the Open API and of the control door, for tests over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from google.protobuf.message import Message

from venue.protocol import common, decode, messages, model

ANSWER_TIMEOUT_S = 10.0


class VenueClient:
    """One connection; what arrives and was not asked for is kept in `events`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ready: dict[str, Any]
    ) -> None:
        self.reader, self.writer, self.ready = reader, writer, ready
        self.account_id: int = ready["account_id"]
        self.events: list[tuple[Message, str | None]] = []
        self._ids = 0

    @classmethod
    async def connect(cls, ready: dict[str, Any]) -> VenueClient:
        """Connect over TLS; the certificate is checked."""
        context = ssl.create_default_context(cafile=ready["ca_file"])
        reader, writer = await asyncio.open_connection(ready["host"], ready["port"], ssl=context)
        return cls(reader, writer, ready)

    async def left(self) -> bytes:
        """Return what still comes until the venue ends the connection."""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await self.reader.read()

    async def close(self) -> None:
        """Leave; what the venue still sends is not read."""
        self.writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await self.writer.wait_closed()

    # -- frames

    def send(self, message: Message, client_msg_id: str | None = None) -> None:
        self.send_bytes(self.frame(message, client_msg_id))

    def send_bytes(self, content: bytes) -> None:
        self.writer.write(content)

    @staticmethod
    def frame(message: Message, client_msg_id: str | None = None, payload_type: int | None = None) -> bytes:
        kind = message.payloadType if payload_type is None else payload_type
        envelope = common.ProtoMessage(payloadType=kind, payload=message.SerializeToString())
        if client_msg_id is not None:
            envelope.clientMsgId = client_msg_id
        body = envelope.SerializeToString()
        return struct.pack(">I", len(body)) + body

    async def receive_envelope(self) -> common.ProtoMessage:
        """Return the next frame's content, whatever is in it."""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            (length,) = struct.unpack(">I", await self.reader.readexactly(4))
            return common.ProtoMessage.FromString(await self.reader.readexactly(length))

    async def receive(self) -> tuple[Message, str | None]:
        """Return the next message and its clientMsgId."""
        envelope = await self.receive_envelope()
        message = decode(envelope)
        assert message is not None
        return message, envelope.clientMsgId if envelope.HasField("clientMsgId") else None

    async def ask(self, request: Message) -> Any:
        """Send a request and return the first message that carries its id."""
        self._ids += 1
        client_msg_id = f"q{self._ids}"
        self.send(request, client_msg_id)
        while True:
            message, answered = await self.receive()
            if answered == client_msg_id:
                return message
            self.events.append((message, answered))

    async def wait_for(self, kind: type[Message], holds: Callable[[Any], bool] = lambda _: True) -> Any:
        """Return the next message of a kind, from those that came before too."""
        while True:
            for index, (message, _) in enumerate(self.events):
                if isinstance(message, kind) and holds(message):
                    del self.events[index]
                    return message
            self.events.append(await self.receive())

    async def collect(self) -> list[Message]:
        """Return all that has come by the time the venue answers a question."""
        await self.ask(messages.ProtoOAVersionReq())
        found, self.events = [message for message, _ in self.events], []
        return found

    # -- sequences

    async def log_in(self) -> VenueClient:
        """Authorize the application and the account."""
        await self.ask(
            messages.ProtoOAApplicationAuthReq(
                clientId=self.ready["client_id"], clientSecret=self.ready["client_secret"]
            )
        )
        await self.ask(
            messages.ProtoOAAccountAuthReq(
                ctidTraderAccountId=self.account_id, accessToken=self.ready["access_token"]
            )
        )
        return self

    async def symbol_ids(self) -> dict[str, int]:
        answer = await self.ask(messages.ProtoOASymbolsListReq(ctidTraderAccountId=self.account_id))
        return {symbol.symbolName: symbol.symbolId for symbol in answer.symbol}

    async def subscribe(self, *symbol_ids: int, stamps: bool = True, bars: bool = False) -> None:
        await self.ask(
            messages.ProtoOASubscribeSpotsReq(
                ctidTraderAccountId=self.account_id, symbolId=symbol_ids, subscribeToSpotTimestamp=stamps
            )
        )
        for symbol_id in symbol_ids if bars else ():
            await self.ask(
                messages.ProtoOASubscribeLiveTrendbarReq(
                    ctidTraderAccountId=self.account_id, symbolId=symbol_id, period=model.M5
                )
            )

    def market_order(
        self, symbol_id: int, side: str = "BUY", volume: int = 100_000, **fields: Any
    ) -> Message:
        return messages.ProtoOANewOrderReq(
            ctidTraderAccountId=self.account_id,
            symbolId=symbol_id,
            orderType=model.MARKET,
            tradeSide=model.ProtoOATradeSide.Value(side),
            volume=volume,
            **fields,
        )


class Control:
    """The control door."""

    def __init__(self, ready: dict[str, Any]) -> None:
        self._port, self._token = ready["control_port"], ready["control_token"]

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, token: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer."""
        content = b"" if body is None else orjson.dumps(body)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: venue\r\nConnection: close\r\n"
            f"Authorization: Bearer {self._token if token is None else token}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, payload = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), orjson.loads(payload)

    async def get(self, path: str) -> dict[str, Any]:
        status, answer = await self.call("GET", path)
        assert status == 200, answer
        return answer

    async def step(self, until_ms: int) -> dict[str, Any]:
        status, answer = await self.call("POST", "/step", {"until_ms": until_ms})
        assert status == 200, answer
        return answer

    async def fault(self, name: str, **how: Any) -> None:
        status, answer = await self.call("POST", "/faults", {"fault": name, **how})
        assert status == 200, answer


@asynccontextmanager
async def logged_in(ready: dict[str, Any]) -> AsyncIterator[VenueClient]:
    """Yield a client that is authorized."""
    client = await VenueClient.connect(ready)
    try:
        yield await client.log_in()
    finally:
        await client.close()
