"""A program on the official client, unmodified: logs in, subscribes, orders, prints what it was told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Generator
from typing import Any

from twisted.internet import asyncioreactor

with contextlib.nullcontext(asyncio.new_event_loop()) as loop:  # before the package installs its own
    asyncioreactor.install(loop)

from ctrader_open_api import Client, Protobuf, TcpProtocol
from ctrader_open_api.messages import OpenApiMessages_pb2 as messages
from ctrader_open_api.messages import OpenApiModelMessages_pb2 as model
from twisted.internet import defer, reactor

TIMEOUT_S = 25

ready = json.loads(sys.argv[1])
account_id = ready["account_id"]
told: list[str] = []


@defer.inlineCallbacks
def converse(client: Client) -> Generator[Any, Any, None]:
    """Ask one thing after the other."""

    def ask(request: Any) -> Any:
        return client.send(request, clientMsgId=type(request).__name__).addCallback(Protobuf.extract)

    yield ask(
        messages.ProtoOAApplicationAuthReq(clientId=ready["client_id"], clientSecret=ready["client_secret"])
    )
    yield ask(
        messages.ProtoOAAccountAuthReq(ctidTraderAccountId=account_id, accessToken=ready["access_token"])
    )
    symbols = yield ask(messages.ProtoOASymbolsListReq(ctidTraderAccountId=account_id))
    (symbol_id,) = [each.symbolId for each in symbols.symbol if each.symbolName == "EURUSD"]
    yield ask(messages.ProtoOASubscribeSpotsReq(ctidTraderAccountId=account_id, symbolId=[symbol_id]))
    yield ask(
        messages.ProtoOANewOrderReq(
            ctidTraderAccountId=account_id,
            symbolId=symbol_id,
            orderType=model.MARKET,
            tradeSide=model.BUY,
            volume=100_000,
        )
    )


def finish(_: object) -> None:
    """Print what came."""
    sys.stdout.write(json.dumps(told))
    reactor.stop()


client = Client(ready["host"], ready["port"], TcpProtocol)
client.setConnectedCallback(lambda connected: converse(connected).addBoth(finish))
client.setMessageReceivedCallback(lambda _, frame: told.append(type(Protobuf.extract(frame)).__name__))
client.startService()
reactor.callLater(TIMEOUT_S, reactor.stop)
reactor.run()
