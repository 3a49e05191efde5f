"""A program on the official client's own transport: asks by a schedule, and prints how long answers took."""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from ctrader_open_api import Client, TcpProtocol
from ctrader_open_api.messages import OpenApiMessages_pb2 as messages
from twisted.internet import defer, reactor, task

TIMEOUT_S = 30
ready, plan = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
account = ready["account_id"]
client = Client(ready["host"], ready["port"], TcpProtocol)
numbers = itertools.count()


def ask(message: Any) -> Any:
    """Send under an id of our own: the package's own ids are used again."""
    return client.send(message, clientMsgId=f"official-{next(numbers)}", responseTimeoutInSeconds=TIMEOUT_S)


@defer.inlineCallbacks  # type: ignore[untyped-decorator]
def timed() -> Any:
    """Return how long one question takes, in seconds."""
    began_s = time.monotonic()
    yield ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=account))
    return time.monotonic() - began_s


@defer.inlineCallbacks  # type: ignore[untyped-decorator]
def measure() -> Any:
    """Ask at the plan's times, whether or not the answers are there; then all at once, again and again."""
    singles = []
    for gap_s in plan["gaps_s"]:
        singles.append(timed())
        yield task.deferLater(reactor, gap_s)
    single_s = yield defer.gatherResults(singles)
    bursts_s = []
    for gap_s in plan["burst_gaps_s"]:
        bursts_s.append((yield defer.gatherResults([timed() for _ in range(plan["burst"])])))
        yield task.deferLater(reactor, gap_s)
    return {"singles_s": single_s, "bursts_s": bursts_s}


@defer.inlineCallbacks  # type: ignore[untyped-decorator]
def connected(_: Any) -> Any:
    """Authorise, measure, print, leave."""
    try:
        yield ask(
            messages.ProtoOAApplicationAuthReq(
                clientId=ready["client_id"], clientSecret=ready["client_secret"]
            )
        )
        yield ask(
            messages.ProtoOAAccountAuthReq(ctidTraderAccountId=account, accessToken=ready["access_token"])
        )
        print(json.dumps((yield measure())), flush=True)
    finally:
        reactor.stop()


client.setConnectedCallback(connected)
client.startService()
reactor.run()
