"""A program on the official client, unmodified, in its own environment: tells what of the venue held.

Started with the venue's first line as JSON; prints one JSON object, the outcome of each check by its name.
Imports nothing of ours: what it needs is the official package with its own pins.
"""

from __future__ import annotations

import functools
import json
import sys
import traceback
import urllib.request
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from ctrader_open_api import Auth, Client, Protobuf, TcpProtocol
from ctrader_open_api.messages import OpenApiCommonMessages_pb2 as common
from ctrader_open_api.messages import OpenApiMessages_pb2 as messages
from ctrader_open_api.messages import OpenApiModelMessages_pb2 as model
from twisted.internet import defer, reactor, task, threads

Steps = Generator[Any, Any, None]

REDIRECT = "http://localhost:8080/redirect"
M5_MS = 300_000
ANSWER_S = 30  # the client sends five requests a second, and a busy machine is slow
TOLD_S = 30.0
SUITE_S = 170.0

ready: dict[str, Any] = json.loads(sys.argv[1])
account: int = ready["account_id"]
tokens = {"access": ready["access_token"], "refresh": ready["refresh_token"]}
rest = f"https://{ready['host']}:{ready['rest_port']}"
outcome: dict[str, str] = {}
told: list[Any] = []  # every message but quotes, in order
quotes: list[Any] = []
ids: dict[str, int] = {}
state: dict[str, Any] = {}


# -- what every step uses


def received(_: Client, envelope: Any) -> None:
    """Keep what comes; a message that the package cannot read ends the suite."""
    if envelope.payloadType == common.ProtoHeartbeatEvent().payloadType:
        return
    try:
        message = Protobuf.extract(envelope)
        assert message.IsInitialized(), f"{type(message).__name__} lacks a required field"
    except Exception:
        outcome["every message is one that the package reads"] = traceback.format_exc()
        raise
    (quotes if isinstance(message, messages.ProtoOASpotEvent) else told).append(message)


client = Client(ready["host"], ready["port"], TcpProtocol)
_numbers = iter(range(1, 10_000))


def ask(request: Any) -> Any:
    """Send a request; the deferred gives the first message that answers it, unpacked."""
    sent = client.send(request, clientMsgId=f"r{next(_numbers)}", responseTimeoutInSeconds=ANSWER_S)
    return sent.addCallback(Protobuf.extract)


def control(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Call the control door, in a thread."""

    def call() -> Any:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{ready['control_port']}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Bearer {ready['control_token']}"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - as above
            return json.load(answer)

    return threads.deferToThread(call)


@defer.inlineCallbacks
def step(ms: int) -> Steps:
    """Let the venue's time run."""
    now = yield control("GET", "/state")
    yield control("POST", "/step", {"until_ms": now["time_ms"] + ms})


@defer.inlineCallbacks
def until(holds: Callable[[], Any], what: str) -> Steps:
    """Wait for messages that are on their way."""
    deadline = reactor.seconds() + TOLD_S
    while not holds():
        assert reactor.seconds() < deadline, f"never came: {what}; told {[type(m).__name__ for m in told]}"
        yield task.deferLater(reactor, 0.02, lambda: None)


def executions() -> list[Any]:
    return [message for message in told if isinstance(message, messages.ProtoOAExecutionEvent)]


def kinds() -> list[str]:
    return [model.ProtoOAExecutionType.Name(event.executionType) for event in executions()]


def code(answer: Any) -> str:
    return str(answer.errorCode)


def check(name: str) -> Callable[[Callable[[], Steps]], Callable[[], Any]]:
    """Let a function be one check: its outcome is kept under the name, and the next one runs all the same."""

    def wrap(function: Callable[[], Steps]) -> Callable[[], Any]:
        @functools.wraps(function)
        @defer.inlineCallbacks
        def run() -> Steps:
            try:
                yield defer.inlineCallbacks(function)()
                outcome[name] = "held"
            except Exception:  # noqa: BLE001 - whatever ended a check is its outcome
                outcome[name] = traceback.format_exc()

        CHECKS.append(run)
        return run

    return wrap


CHECKS: list[Callable[[], Any]] = []


# -- the checks, in the order in which they run


@check("an application gets in once, and only with its secret")
def application() -> Steps:
    wrong = messages.ProtoOAApplicationAuthReq(clientId=ready["client_id"], clientSecret="no")
    right = messages.ProtoOAApplicationAuthReq(
        clientId=ready["client_id"], clientSecret=ready["client_secret"]
    )
    early, refused, let_in, again = yield defer.gatherResults(
        [ask(messages.ProtoOATraderReq(ctidTraderAccountId=account)), ask(wrong), ask(right), ask(right)]
    )
    assert code(early) == "CH_CLIENT_NOT_AUTHENTICATED"
    assert code(refused) == "CH_CLIENT_AUTH_FAILURE"
    assert isinstance(let_in, messages.ProtoOAApplicationAuthRes)
    assert code(again) == "CH_CLIENT_ALREADY_AUTHENTICATED"


@check("a token lists its accounts and opens one of them once")
def accounts() -> Steps:
    auth = messages.ProtoOAAccountAuthReq(ctidTraderAccountId=account, accessToken=tokens["access"])
    version, listed, profile, let_in, again = yield defer.gatherResults(
        [
            ask(messages.ProtoOAVersionReq()),
            ask(messages.ProtoOAGetAccountListByAccessTokenReq(accessToken=tokens["access"])),
            ask(messages.ProtoOAGetCtidProfileByTokenReq(accessToken=tokens["access"])),
            ask(auth),
            ask(auth),
        ]
    )
    assert version.version
    (found,) = listed.ctidTraderAccount
    assert (found.ctidTraderAccountId, found.isLive) == (account, False)
    assert profile.profile.userId
    assert isinstance(let_in, messages.ProtoOAAccountAuthRes)
    assert code(again) == "ALREADY_LOGGED_IN"


@check("symbols, assets and the account are told in full")
def lists() -> Steps:
    symbols, assets, trader, classes, categories = yield defer.gatherResults(
        [
            ask(messages.ProtoOASymbolsListReq(ctidTraderAccountId=account)),
            ask(messages.ProtoOAAssetListReq(ctidTraderAccountId=account)),
            ask(messages.ProtoOATraderReq(ctidTraderAccountId=account)),
            ask(messages.ProtoOAAssetClassListReq(ctidTraderAccountId=account)),
            ask(messages.ProtoOASymbolCategoryListReq(ctidTraderAccountId=account)),
        ]
    )
    ids.update({symbol.symbolName: symbol.symbolId for symbol in symbols.symbol})
    assert [symbol.symbolName for symbol in symbols.symbol].count("EURUSD") == 1
    names = {asset.assetId: asset.name for asset in assets.asset}
    assert names[trader.trader.depositAssetId] == "USD"
    assert (trader.trader.balance, trader.trader.moneyDigits) == (1_000_000, 2)
    assert classes.assetClass
    assert categories.symbolCategory
    found = yield ask(
        messages.ProtoOASymbolByIdReq(ctidTraderAccountId=account, symbolId=[ids["EURUSD"], ids["XAUUSD"]])
    )
    assert [symbol.lotSize for symbol in found.symbol] == [10_000_000, 10_000]


@check("a subscription is followed at once by both prices")
def spots() -> Steps:
    answer, again = yield defer.gatherResults(
        [
            ask(messages.ProtoOASubscribeSpotsReq(ctidTraderAccountId=account, symbolId=[ids["EURUSD"]]))
            for _ in range(2)
        ]
    )
    assert isinstance(answer, messages.ProtoOASubscribeSpotsRes)
    assert code(again) == "ALREADY_SUBSCRIBED"
    yield until(lambda: quotes, "the first quote")
    assert quotes[0].bid < quotes[0].ask


@check("live bars grow with every bid and are those of history")
def live_bars() -> Steps:
    answer = yield ask(
        messages.ProtoOASubscribeLiveTrendbarReq(
            ctidTraderAccountId=account, symbolId=ids["EURUSD"], period=model.M5
        )
    )
    assert isinstance(answer, messages.ProtoOASubscribeLiveTrendbarRes)
    quotes.clear()
    yield step(2 * M5_MS)
    yield until(lambda: len({bar.utcTimestampInMinutes for q in quotes for bar in q.trendbar}) >= 2, "bars")
    assert all(len(quote.trendbar) == quote.HasField("bid") for quote in quotes)
    whole = [(quote.bid, bar) for quote in quotes for bar in quote.trendbar]
    first = whole[0][1].utcTimestampInMinutes
    bid, last = [(bid, bar) for bid, bar in whole if bar.utcTimestampInMinutes == first][-1]
    history = yield ask(
        messages.ProtoOAGetTrendbarsReq(
            ctidTraderAccountId=account,
            fromTimestamp=0,
            toTimestamp=first * 60_000,
            period=model.M5,
            symbolId=ids["EURUSD"],
            count=1,
        )
    )
    (known,) = history.trendbar
    assert (known.low, known.deltaOpen, known.deltaHigh) == (last.low, last.deltaOpen, last.deltaHigh)
    assert known.low + known.deltaClose == bid


@check("history has bars, and ticks from the newest back")
def past() -> Steps:
    now = (yield control("GET", "/state"))["time_ms"]
    bars, ticks, too_wide = yield defer.gatherResults(
        [
            ask(
                messages.ProtoOAGetTrendbarsReq(
                    ctidTraderAccountId=account,
                    fromTimestamp=now - 20 * M5_MS,
                    toTimestamp=now,
                    period=model.M5,
                    symbolId=ids["EURUSD"],
                )
            ),
            ask(
                messages.ProtoOAGetTickDataReq(
                    ctidTraderAccountId=account,
                    symbolId=ids["EURUSD"],
                    type=model.BID,
                    fromTimestamp=now - M5_MS,
                    toTimestamp=now,
                )
            ),
            ask(
                messages.ProtoOAGetTrendbarsReq(
                    ctidTraderAccountId=account,
                    fromTimestamp=0,
                    toTimestamp=now,
                    period=model.M5,
                    symbolId=ids["EURUSD"],
                )
            ),
        ]
    )
    opens = [bar.utcTimestampInMinutes for bar in bars.trendbar]
    assert opens == sorted(opens)
    assert len(opens) >= 19
    newest, *older = ticks.tickData
    assert now - M5_MS <= newest.timestamp <= now
    assert all(tick.timestamp <= 0 for tick in older)
    assert code(too_wide) == "INCORRECT_BOUNDARIES"


@check("a market order is accepted, filled and protected")
def market_order() -> Steps:
    told.clear()
    accepted = yield ask(
        messages.ProtoOANewOrderReq(
            ctidTraderAccountId=account,
            symbolId=ids["EURUSD"],
            orderType=model.MARKET,
            tradeSide=model.BUY,
            volume=200_000,
            relativeStopLoss=1_000,
            relativeTakeProfit=2_000,
            clientOrderId="suite-1",
            label="suite",
        )
    )
    assert accepted.executionType == model.ORDER_ACCEPTED
    yield step(60_000)
    yield until(lambda: len(executions()) >= 3, "fill and stop")
    assert kinds() == ["ORDER_ACCEPTED", "ORDER_FILLED", "ORDER_ACCEPTED"]
    _, filled, protected = executions()
    assert filled.deal.executionPrice == filled.position.price
    assert round(filled.position.price - protected.position.stopLoss, 5) == 0.01
    assert (filled.order.clientOrderId, filled.position.tradeData.label) == ("suite-1", "suite")
    state.update(position=filled.position.positionId, order=filled.order.orderId, entry=filled.position.price)


@check("a position's levels are amended")
def amend() -> Steps:
    told.clear()
    replaced = yield ask(
        messages.ProtoOAAmendPositionSLTPReq(
            ctidTraderAccountId=account,
            positionId=state["position"],
            stopLoss=round(state["entry"] - 0.02, 5),
            takeProfit=round(state["entry"] + 0.03, 5),
        )
    )
    assert replaced.executionType == model.ORDER_REPLACED
    assert replaced.position.stopLoss == round(state["entry"] - 0.02, 5)


@check("a position is closed in part, and then in full")
def close() -> Steps:
    for volume, left in ((100_000, 100_000), (100_000, 0)):
        told.clear()
        yield ask(
            messages.ProtoOAClosePositionReq(
                ctidTraderAccountId=account, positionId=state["position"], volume=volume
            )
        )
        yield step(60_000)
        yield until(lambda: "ORDER_FILLED" in kinds(), "the closing fill")
        filled = next(event for event in executions() if event.executionType == model.ORDER_FILLED)
        detail = filled.deal.closePositionDetail
        assert (detail.closedVolume, filled.position.tradeData.volume) == (volume, left)
    assert filled.position.positionStatus == model.POSITION_STATUS_CLOSED


@check("a limit order waits, is amended and cancelled")
def limit_order() -> Steps:
    bid = next(quote.bid for quote in reversed(quotes) if quote.HasField("bid")) / 100_000
    accepted = yield ask(
        messages.ProtoOANewOrderReq(
            ctidTraderAccountId=account,
            symbolId=ids["EURUSD"],
            orderType=model.LIMIT,
            tradeSide=model.BUY,
            volume=100_000,
            limitPrice=round(bid - 0.05, 5),
        )
    )
    assert accepted.order.orderStatus == model.ORDER_STATUS_ACCEPTED
    order_id = accepted.order.orderId
    held = yield ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=account))
    assert [order.orderId for order in held.order] == [order_id]
    replaced = yield ask(
        messages.ProtoOAAmendOrderReq(
            ctidTraderAccountId=account, orderId=order_id, limitPrice=round(bid - 0.06, 5), volume=100_000
        )
    )
    assert replaced.executionType == model.ORDER_REPLACED
    cancelled = yield ask(messages.ProtoOACancelOrderReq(ctidTraderAccountId=account, orderId=order_id))
    assert cancelled.executionType == model.ORDER_CANCELLED
    gone = yield ask(messages.ProtoOACancelOrderReq(ctidTraderAccountId=account, orderId=order_id))
    assert isinstance(gone, messages.ProtoOAOrderErrorEvent)
    assert code(gone) == "ORDER_NOT_FOUND"


@check("orders and deals stand in the lists")
def books() -> Steps:
    window = {"ctidTraderAccountId": account, "fromTimestamp": 0, "toTimestamp": 2_147_483_646_000}
    now = (yield control("GET", "/state"))["time_ms"]
    window["fromTimestamp"], window["toTimestamp"] = now - 3_600_000, now
    orders, deals, of_position, details, held = yield defer.gatherResults(
        [
            ask(messages.ProtoOAOrderListReq(**window)),
            ask(messages.ProtoOADealListReq(**window)),
            ask(messages.ProtoOADealListByPositionIdReq(positionId=state["position"], **window)),
            ask(messages.ProtoOAOrderDetailsReq(ctidTraderAccountId=account, orderId=state["order"])),
            ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=account)),
        ]
    )
    assert "suite-1" in {order.clientOrderId for order in orders.order}
    assert [deal.filledVolume for deal in deals.deal] == [100_000, 100_000, 200_000]
    assert len(of_position.deal) == 3
    assert details.order.clientOrderId == "suite-1"
    assert not held.position


@check("what breaks a rule is refused with its code")
def errors() -> Steps:
    def order(**fields: Any) -> Any:
        return messages.ProtoOANewOrderReq(
            **{
                "ctidTraderAccountId": account,
                "symbolId": ids["EURUSD"],
                "orderType": model.MARKET,
                "tradeSide": model.BUY,
                "volume": 100_000,
                **fields,
            }
        )

    small, absolute, stranger, lost = yield defer.gatherResults(
        [
            ask(order(volume=1)),
            ask(order(stopLoss=1.0)),
            ask(messages.ProtoOATraderReq(ctidTraderAccountId=1)),
            ask(
                messages.ProtoOAClosePositionReq(
                    ctidTraderAccountId=account, positionId=state["position"], volume=100_000
                )
            ),
        ]
    )
    assert isinstance(small, messages.ProtoOAOrderErrorEvent)
    assert code(small) == "TRADING_BAD_VOLUME"
    assert (type(absolute), code(absolute)) == (messages.ProtoOAErrorRes, "INVALID_REQUEST")
    assert (code(stranger), stranger.description) == ("INVALID_REQUEST", "Trading account is not authorized")
    assert code(lost) == "POSITION_NOT_FOUND"


@defer.inlineCallbacks
def back_in(access: str, refresh: str) -> Steps:
    """Expect that the session ends because of a new pair, and open it again with that."""
    yield until(
        lambda: [m for m in told if isinstance(m, messages.ProtoOAAccountDisconnectEvent)],
        "the session's end",
    )
    old = messages.ProtoOAAccountAuthReq(ctidTraderAccountId=account, accessToken=tokens["access"])
    new = messages.ProtoOAAccountAuthReq(ctidTraderAccountId=account, accessToken=access)
    refused, let_in = yield defer.gatherResults([ask(old), ask(new)])
    assert code(refused) == "CH_ACCESS_TOKEN_INVALID"
    assert isinstance(let_in, messages.ProtoOAAccountAuthRes)
    tokens.update(access=access, refresh=refresh)


@check("a token is refreshed by message")
def refresh_by_message() -> Steps:
    told.clear()
    used = tokens["refresh"]
    pair = yield ask(messages.ProtoOARefreshTokenReq(refreshToken=used))
    assert pair.tokenType == "bearer"
    yield back_in(pair.accessToken, pair.refreshToken)
    again = yield ask(messages.ProtoOARefreshTokenReq(refreshToken=used))
    assert code(again) == "CH_ACCESS_TOKEN_INVALID"


@check("a token is refreshed over HTTPS by the package's own class")
def refresh_by_rest() -> Steps:
    told.clear()
    auth = Auth(ready["client_id"], ready["client_secret"], REDIRECT)
    pair = yield threads.deferToThread(auth.refreshToken, tokens["refresh"], baseUri=f"{rest}/apps/token")
    assert pair["errorCode"] is None
    yield back_in(pair["accessToken"], pair["refreshToken"])


@check("consent leads to tokens by the package's own class")
def consent() -> Steps:
    auth = Auth(ready["client_id"], ready["client_secret"], REDIRECT)
    page = auth.getAuthUri(scope="accounts", baseUri=f"{rest}/apps/auth")
    answer = yield threads.deferToThread(requests.post, page, allow_redirects=False, timeout=30)
    found = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
    pair = yield threads.deferToThread(auth.getToken, found, baseUri=f"{rest}/apps/token")
    listed = yield ask(messages.ProtoOAGetAccountListByAccessTokenReq(accessToken=pair["accessToken"]))
    assert listed.permissionScope == model.SCOPE_VIEW


@check("an account is left, and the connection stays")
def logout() -> Steps:
    told.clear()
    out = yield ask(messages.ProtoOAAccountLogoutReq(ctidTraderAccountId=account))
    assert isinstance(out, messages.ProtoOAAccountLogoutRes)
    yield until(
        lambda: [m for m in told if isinstance(m, messages.ProtoOAAccountDisconnectEvent)], "the logout's end"
    )
    version = yield ask(messages.ProtoOAVersionReq())
    assert version.version


# -- the run


@defer.inlineCallbacks
def run_all(_: Client) -> Steps:
    """Run every check, and say how each ended."""
    outcome["every message is one that the package reads"] = "held"
    for run in CHECKS:
        yield run()
    reactor.stop()


client.setConnectedCallback(run_all)
client.setMessageReceivedCallback(received)
client.startService()
reactor.callLater(SUITE_S, reactor.stop)
reactor.run()
sys.stdout.write(json.dumps(outcome))
