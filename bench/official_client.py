"""A program on the official client's own transport: orders at once when it sees a new bar."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ctrader_open_api import Client, Protobuf, TcpProtocol
from ctrader_open_api.messages import OpenApiMessages_pb2 as messages
from twisted.internet import defer, reactor

M5, MARKET, BUY = 5, 1, 1
SEEN = {"open_ms": 0, "symbol_id": 0}
ready = json.loads(Path(sys.argv[1]).read_text())
account = ready["account_id"]
client = Client(ready["host"], ready["port"], TcpProtocol)


@defer.inlineCallbacks  # type: ignore[untyped-decorator]
def connected(_: Any) -> Any:
    """Authorise, subscribe to every symbol, and say that we are ready."""
    yield client.send(
        messages.ProtoOAApplicationAuthReq(clientId=ready["client_id"], clientSecret=ready["client_secret"])
    )
    yield client.send(
        messages.ProtoOAAccountAuthReq(ctidTraderAccountId=account, accessToken=ready["access_token"])
    )
    listed = yield client.send(messages.ProtoOASymbolsListReq(ctidTraderAccountId=account))
    SEEN["symbol_id"] = next(s.symbolId for s in Protobuf.extract(listed).symbol if s.symbolName == "EURUSD")
    ids = [symbol.symbolId for symbol in Protobuf.extract(listed).symbol]
    yield client.send(messages.ProtoOASubscribeSpotsReq(ctidTraderAccountId=account, symbolId=ids))
    for symbol_id in ids:
        request = messages.ProtoOASubscribeLiveTrendbarReq(
            ctidTraderAccountId=account, symbolId=symbol_id, period=M5
        )
        yield client.send(request)
    print("ready", flush=True)


def received(_: Any, envelope: Any) -> None:
    """At the first quote of a new bar, send an order."""
    if envelope.payloadType != messages.ProtoOASpotEvent().payloadType:
        return
    spot = Protobuf.extract(envelope)
    for bar in spot.trendbar:
        open_ms = bar.utcTimestampInMinutes * 60_000
        if open_ms > SEEN["open_ms"]:
            first, SEEN["open_ms"] = not SEEN["open_ms"], open_ms
            if not first:
                order(SEEN["symbol_id"], open_ms)


def order(symbol_id: int, open_ms: int) -> None:
    """Send a small market order, named after the bar."""
    client.send(
        messages.ProtoOANewOrderReq(
            ctidTraderAccountId=account,
            symbolId=symbol_id,
            orderType=MARKET,
            tradeSide=BUY,
            volume=100_000,
            clientOrderId=f"official-{open_ms}",
        )
    ).addErrback(lambda failure: sys.stderr.write(f"{failure.value}\n"))


client.setConnectedCallback(connected)
client.setMessageReceivedCallback(received)
client.startService()
reactor.run()
