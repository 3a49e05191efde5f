"""One client's connection: what it may do, what it is subscribed to, and its answer to every request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message

from venue.bars import Bar
from venue.credentials import ACCESS_TOKEN_LIFE_S, Credentials
from venue.directory import Directory
from venue.exchange import Answer, Exchange
from venue.ledger import Ledger
from venue.matching import MarketRequest
from venue.money import MONEY_DIGITS
from venue.playback import Spot
from venue.protocol import HEARTBEAT_EVENT, common, decode, encode, messages, model, pack
from venue.records import Deal, Order, RefusedError, Side
from venue.translation import Translator, points, trendbar

VERSION = "91"
BROKER = "TradeGuard simulated venue"
LEVERAGE_SCALE = 100  # leverage is told in cents
ROWS_MAX = 1_000  # of a list of orders or deals
HISTORY_BARS_MAX = 10_080  # five weeks of M5
HISTORY_WINDOW_MS_MAX = 3_024_000_000
TIMESTAMP_MS_MAX = 2_147_483_646_000
REQUESTS_PER_S = 50
HISTORY_REQUESTS_PER_S = 5

NOT_AUTHORIZED = "Trading account is not authorized"
ABSOLUTE_LEVELS = "SL/TP in absolute values are allowed only for order types: [LIMIT, STOP, STOP_LIMIT]"

# These codes come as a plain error even to a trading request; all others as an order error.
_PLAIN_ERRORS = frozenset({"INVALID_REQUEST"})


class RequestError(Exception):
    """A request cannot be answered as asked; the connection lives on."""

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description


class Bucket:
    """A token bucket: so many a second, and as many at once."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._tokens = per_s
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Take a token if there is one."""
        if self._at_s is not None:
            self._tokens = min(self._per_s, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(frozen=True, slots=True)
class Floor:
    """What all sessions share."""

    exchange: Exchange
    ledger: Ledger
    directory: Directory
    translator: Translator
    credentials: Credentials


class Host(Protocol):
    """The server, as a session sees it."""

    def answer(self, answer: Answer, session: Session, client_msg_id: str | None) -> None:
        """Send what a request led to, to every session of the account."""

    def tokens_rotated(self) -> None:
        """End every session of the account: its token is void."""


class Session:
    """The state and the requests of one connection."""

    def __init__(self, floor: Floor, host: Host, write: Callable[[bytes], None], now_s: float) -> None:
        self._floor = floor
        self._host = host
        self._write = write
        self._out = bytearray()
        self._requests = Bucket(REQUESTS_PER_S)
        self._history_requests = Bucket(HISTORY_REQUESTS_PER_S)
        self.is_known = False  # application auth done
        self.is_authorized = False  # account auth done
        self.spots: dict[str, bool] = {}  # symbol -> with time stamps
        self.bars: set[str] = set()
        self.heard_s = now_s
        self.sent_s = now_s

    # -- frames --------------------------------------------------------------------------------

    def send(self, message: Message, client_msg_id: str | None = None) -> None:
        """Put a message on the way; it leaves with the next flush."""
        kind, body = encode(message)
        self._out += pack(kind, body, client_msg_id)

    def send_frame(self, frame: bytes) -> None:
        """Put a ready frame on the way."""
        self._out += frame

    def flush(self, now_s: float) -> None:
        """Write all that is on the way."""
        if self._out:
            self._write(bytes(self._out))
            self._out.clear()
            self.sent_s = now_s

    def heartbeat(self) -> None:
        """Send a sign of life."""
        self.send(common.ProtoHeartbeatEvent())

    def take(self, envelope: common.ProtoMessage, now_s: float) -> None:
        """Answer one frame."""
        self.heard_s = now_s
        if envelope.payloadType == HEARTBEAT_EVENT:
            return
        client_msg_id = envelope.clientMsgId if envelope.HasField("clientMsgId") else None
        try:
            for reply in self._replies(envelope, client_msg_id, now_s):
                self.send(reply, client_msg_id)
        except RequestError as error:
            self.send(self._error(error.code, error.description), client_msg_id)

    def _replies(
        self, envelope: common.ProtoMessage, client_msg_id: str | None, now_s: float
    ) -> Iterable[Message]:
        try:
            request = decode(envelope)
        except DecodeError as error:
            raise RequestError("INVALID_REQUEST", f"The message cannot be decoded: {error}") from error
        answer = _HANDLERS.get(type(request).__name__)
        trade = _TRADES.get(type(request).__name__)
        if request is None or (answer is None and trade is None):
            raise RequestError(
                "UNSUPPORTED_MESSAGE", f"Messages of type {envelope.payloadType} are not served"
            )
        self._check_rate(request, now_s)
        self._check_rights(request)
        if answer is not None:
            return answer(self, request)
        return [] if trade is None else self._trade(trade, request, client_msg_id)

    def _check_rate(self, request: Message, now_s: float) -> None:
        history = type(request).__name__ in _HISTORY
        if not (self._history_requests if history else self._requests).take(now_s):
            raise RequestError(
                "BLOCKED_PAYLOAD_TYPE",
                f"More than {HISTORY_REQUESTS_PER_S if history else REQUESTS_PER_S} a second",
            )

    def _check_rights(self, request: Message) -> None:
        if isinstance(request, messages.ProtoOAApplicationAuthReq):
            return
        if not self.is_known:
            raise RequestError("CH_CLIENT_NOT_AUTHENTICATED", "Send ProtoOAApplicationAuthReq first")
        if isinstance(request, messages.ProtoOAAccountAuthReq):
            return
        account_id = getattr(request, "ctidTraderAccountId", None)
        if account_id is not None and not (self.is_authorized and account_id == self._account_id):
            raise RequestError("INVALID_REQUEST", NOT_AUTHORIZED)

    @property
    def _account_id(self) -> int:
        return self._floor.credentials.account_id

    def _error(self, code: str, description: str) -> Message:
        error = messages.ProtoOAErrorRes(errorCode=code, description=description)
        if self.is_authorized:
            error.ctidTraderAccountId = self._account_id
        return error  # type: ignore[no-any-return] # the generated classes carry no types

    # -- who are you ---------------------------------------------------------------------------

    def _application_auth(self, request: Any) -> Iterable[Message]:  # noqa: ANN401 - generated class
        if self.is_known:
            raise RequestError("CH_CLIENT_ALREADY_AUTHENTICATED", "Application is already authorized")
        if not self._floor.credentials.is_client(request.clientId, request.clientSecret):
            raise RequestError("CH_CLIENT_AUTH_FAILURE", "clientId or clientSecret is incorrect")
        self.is_known = True
        return [messages.ProtoOAApplicationAuthRes()]

    def _version(self, _: Any) -> Iterable[Message]:  # noqa: ANN401 - as above
        return [messages.ProtoOAVersionRes(version=VERSION)]

    def _account_list(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        self._check_token(request.accessToken)
        account = model.ProtoOACtidTraderAccount(
            ctidTraderAccountId=self._account_id,
            isLive=False,
            traderLogin=self._floor.credentials.trader_login,
        )
        return [
            messages.ProtoOAGetAccountListByAccessTokenRes(
                accessToken=request.accessToken,
                permissionScope=model.SCOPE_TRADE,
                ctidTraderAccount=[account],
            )
        ]

    def _account_auth(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        self._check_token(request.accessToken)
        if request.ctidTraderAccountId != self._account_id:
            raise RequestError("CH_CTID_TRADER_ACCOUNT_NOT_FOUND", "No such account under this token")
        if self.is_authorized:
            raise RequestError("ALREADY_LOGGED_IN", "Trading account is already authorized in this channel")
        self.is_authorized = True
        return [messages.ProtoOAAccountAuthRes(ctidTraderAccountId=self._account_id)]

    def _refresh_token(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        if not self._floor.credentials.rotate(request.refreshToken):
            raise RequestError("CH_ACCESS_TOKEN_INVALID", "The refresh token is not valid")
        credentials = self._floor.credentials
        self._host.tokens_rotated()
        return [
            messages.ProtoOARefreshTokenRes(
                accessToken=credentials.access_token,
                tokenType="bearer",
                expiresIn=ACCESS_TOKEN_LIFE_S,
                refreshToken=credentials.refresh_token,
            )
        ]

    def _account_logout(self, _: Any) -> Iterable[Message]:  # noqa: ANN401
        self.leave()
        return [
            messages.ProtoOAAccountLogoutRes(ctidTraderAccountId=self._account_id),
            messages.ProtoOAAccountDisconnectEvent(ctidTraderAccountId=self._account_id),
        ]

    def leave(self) -> None:
        """Forget the account and its subscriptions."""
        self.is_authorized = False
        self.spots.clear()
        self.bars.clear()

    def _check_token(self, token: str) -> None:
        if not self._floor.credentials.is_token(token):
            raise RequestError("CH_ACCESS_TOKEN_INVALID", "The access token is not valid")

    # -- symbols and account -------------------------------------------------------------------

    def _asset_list(self, _: Any) -> Iterable[Message]:  # noqa: ANN401
        assets = [
            model.ProtoOAAsset(assetId=number, name=name, displayName=name, digits=MONEY_DIGITS)
            for name, number in self._floor.directory.asset_ids.items()
        ]
        return [messages.ProtoOAAssetListRes(ctidTraderAccountId=self._account_id, asset=assets)]

    def _symbols_list(self, _: Any) -> Iterable[Message]:  # noqa: ANN401
        symbols = [self._floor.translator.light_symbol(symbol) for symbol in self._floor.directory.contracts]
        return [messages.ProtoOASymbolsListRes(ctidTraderAccountId=self._account_id, symbol=symbols)]

    def _symbol_by_id(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        symbols = [self._floor.translator.symbol(self._symbol(number)) for number in request.symbolId]
        return [messages.ProtoOASymbolByIdRes(ctidTraderAccountId=self._account_id, symbol=symbols)]

    def _symbols_for_conversion(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        directory = self._floor.directory
        first, last = (directory.assets.get(n) for n in (request.firstAssetId, request.lastAssetId))
        chain = directory.conversion_chain(first, last) if first and last else None
        if chain is None:
            raise RequestError("INVALID_REQUEST", "No symbols convert these assets")
        symbols = [self._floor.translator.light_symbol(symbol) for symbol in chain]
        return [messages.ProtoOASymbolsForConversionRes(ctidTraderAccountId=self._account_id, symbol=symbols)]

    def _trader(self, _: Any) -> Iterable[Message]:  # noqa: ANN401
        matching = self._floor.exchange.matching
        trader = model.ProtoOATrader(
            ctidTraderAccountId=self._account_id,
            balance=matching.balance_cents,
            balanceVersion=matching.balance_version,
            accessRights=model.FULL_ACCESS,
            depositAssetId=self._floor.directory.asset_ids[matching.terms.deposit_asset],
            swapFree=True,
            leverageInCents=matching.terms.leverage * LEVERAGE_SCALE,
            totalMarginCalculationType=model.SUM,
            maxLeverage=matching.terms.leverage,
            traderLogin=self._floor.credentials.trader_login,
            accountType=model.HEDGED,
            brokerName=BROKER,
            isLimitedRisk=False,
            moneyDigits=MONEY_DIGITS,
        )
        return [messages.ProtoOATraderRes(ctidTraderAccountId=self._account_id, trader=trader)]

    def _reconcile(self, _: Any) -> Iterable[Message]:  # noqa: ANN401
        matching, translator = self._floor.exchange.matching, self._floor.translator
        return [
            messages.ProtoOAReconcileRes(
                ctidTraderAccountId=self._account_id,
                position=[translator.position(each) for each in matching.positions.values()],
                order=[translator.order(each) for each in matching.orders.values()],
            )
        ]

    def _unrealized(self, _: Any) -> Iterable[Message]:  # noqa: ANN401
        values = [
            model.ProtoOAPositionUnrealizedPnL(
                positionId=value.position_id,
                grossUnrealizedPnL=value.gross_cents,
                netUnrealizedPnL=value.net_cents,
            )
            for value in self._floor.exchange.matching.valuations()
        ]
        return [
            messages.ProtoOAGetPositionUnrealizedPnLRes(
                ctidTraderAccountId=self._account_id, positionUnrealizedPnL=values, moneyDigits=MONEY_DIGITS
            )
        ]

    def _symbol(self, number: int) -> str:
        symbol = self._floor.directory.symbols.get(number)
        if symbol is None:
            raise RequestError("SYMBOL_NOT_FOUND", f"Symbol not found with id {number}")
        return symbol

    # -- books ---------------------------------------------------------------------------------

    def _order_list(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        orders = self._floor.ledger.between(Order, request.fromTimestamp, request.toTimestamp, ROWS_MAX + 1)
        return [
            messages.ProtoOAOrderListRes(
                ctidTraderAccountId=self._account_id,
                order=[self._floor.translator.order(order) for order in orders[:ROWS_MAX]],
                hasMore=len(orders) > ROWS_MAX,
            )
        ]

    def _deal_list(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        rows = min(request.maxRows or ROWS_MAX, ROWS_MAX)
        deals = self._floor.ledger.between(Deal, request.fromTimestamp, request.toTimestamp, rows + 1)
        return [
            messages.ProtoOADealListRes(
                ctidTraderAccountId=self._account_id,
                deal=[self._floor.translator.deal(deal) for deal in deals[:rows]],
                hasMore=len(deals) > rows,
            )
        ]

    def _deals_of_position(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        deals = self._floor.ledger.of_position(Deal, request.positionId)
        return [
            messages.ProtoOADealListByPositionIdRes(
                ctidTraderAccountId=self._account_id,
                deal=[self._floor.translator.deal(deal) for deal in deals],
                hasMore=False,
            )
        ]

    def _orders_of_position(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        orders = self._floor.ledger.of_position(Order, request.positionId)
        return [
            messages.ProtoOAOrderListByPositionIdRes(
                ctidTraderAccountId=self._account_id,
                order=[self._floor.translator.order(order) for order in orders],
                hasMore=False,
            )
        ]

    def _order_details(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        order = self._floor.ledger.find(Order, request.orderId)
        if order is None:
            raise RequestError("ORDER_NOT_FOUND", f"Order not found with id {request.orderId}")
        deals = self._floor.ledger.of_position(Deal, order.position_id)
        return [
            messages.ProtoOAOrderDetailsRes(
                ctidTraderAccountId=self._account_id,
                order=self._floor.translator.order(order),
                deal=[self._floor.translator.deal(deal) for deal in deals if deal.order_id == order.order_id],
            )
        ]

    # -- prices --------------------------------------------------------------------------------

    def _trendbars(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        symbol = self._symbol(request.symbolId)
        _check_period(request.period)
        from_ms, to_ms = request.fromTimestamp, min(request.toTimestamp, TIMESTAMP_MS_MAX)
        count = min(request.count or HISTORY_BARS_MAX, HISTORY_BARS_MAX)
        if request.HasField("count"):
            from_ms = 0
        elif from_ms > to_ms or to_ms - from_ms > HISTORY_WINDOW_MS_MAX:
            raise RequestError(
                "INCORRECT_BOUNDARIES", "fromTimestamp to toTimestamp is not a window of 5 weeks"
            )
        bars = self._floor.exchange.playback.history(symbol, from_ms, to_ms, count)
        return [
            messages.ProtoOAGetTrendbarsRes(
                ctidTraderAccountId=self._account_id,
                period=request.period,
                timestamp=request.toTimestamp,
                trendbar=[trendbar(bar) for bar in bars],
                symbolId=request.symbolId,
            )
        ]

    def _subscribe_spots(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        symbols = [self._symbol(number) for number in request.symbolId]
        for symbol in symbols:
            if symbol in self.spots:
                raise RequestError("ALREADY_SUBSCRIBED", f"Already subscribed to {symbol}")
        yield messages.ProtoOASubscribeSpotsRes(ctidTraderAccountId=self._account_id)
        for symbol in dict.fromkeys(symbols):
            self.spots[symbol] = bool(request.subscribeToSpotTimestamp)
            event = self._last_spot(symbol)
            if event is not None:
                self.send(event)

    def _last_spot(self, symbol: str) -> Message | None:
        """Return the event that follows a subscription: the last prices, even of a closed market."""
        quote = self._floor.exchange.matching.quotes.get(symbol)
        if quote is None:
            return None
        event = messages.ProtoOASpotEvent(
            ctidTraderAccountId=self._account_id,
            symbolId=self._floor.directory.symbol_ids[symbol],
            bid=quote.bid,
            ask=quote.ask,
        )
        if self.spots[symbol]:
            event.timestamp = quote.time_ms
        return event  # type: ignore[no-any-return] # the generated classes carry no types

    def _unsubscribe_spots(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        symbols = [self._symbol(number) for number in request.symbolId]
        for symbol in symbols:
            self._check_spots(symbol)
            del self.spots[symbol]
            self.bars.discard(symbol)
        return [messages.ProtoOAUnsubscribeSpotsRes(ctidTraderAccountId=self._account_id)]

    def _subscribe_bars(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        symbol = self._symbol(request.symbolId)
        _check_period(request.period)
        self._check_spots(symbol)
        if symbol in self.bars:
            raise RequestError("ALREADY_SUBSCRIBED", f"Already subscribed to the bars of {symbol}")
        self.bars.add(symbol)
        return [messages.ProtoOASubscribeLiveTrendbarRes(ctidTraderAccountId=self._account_id)]

    def _unsubscribe_bars(self, request: Any) -> Iterable[Message]:  # noqa: ANN401
        self.bars.discard(self._symbol(request.symbolId))
        return [messages.ProtoOAUnsubscribeLiveTrendbarRes(ctidTraderAccountId=self._account_id)]

    def _check_spots(self, symbol: str) -> None:
        if symbol not in self.spots:
            raise RequestError("INVALID_REQUEST", f"Not subscribed to the spots of {symbol}")

    # -- trading -------------------------------------------------------------------------------

    def _trade(
        self, trade: Callable[[Session, Any], Answer | None], request: Message, client_msg_id: str | None
    ) -> Iterable[Message]:
        try:
            answer = trade(self, request)
        except RefusedError as error:
            if error.code in _PLAIN_ERRORS:
                raise RequestError(error.code, error.description) from error
            return [
                messages.ProtoOAOrderErrorEvent(
                    ctidTraderAccountId=self._account_id,
                    errorCode=error.code,
                    description=error.description,
                    positionId=getattr(request, "positionId", 0),
                )
            ]
        if answer is not None:
            self._host.answer(answer, self, client_msg_id)
        return []

    def _new_order(self, request: Any) -> Answer | None:  # noqa: ANN401
        if request.HasField("stopLoss") or request.HasField("takeProfit"):
            raise RefusedError("INVALID_REQUEST", ABSOLUTE_LEVELS)
        if request.orderType != model.MARKET:
            raise RefusedError("INVALID_REQUEST", "This venue takes MARKET orders only")
        if request.HasField("positionId"):
            raise RefusedError(
                "INVALID_REQUEST", "A hedged account adds to no position: leave positionId out"
            )
        if request.trailingStopLoss or request.guaranteedStopLoss:
            raise RefusedError("INVALID_REQUEST", "Trailing and guaranteed stops are not offered")
        return self._floor.exchange.submit(
            MarketRequest(
                symbol=self._symbol(request.symbolId),
                side=Side(model.ProtoOATradeSide.Name(request.tradeSide)),
                volume_cents=request.volume,
                client_order_id=request.clientOrderId,
                label=request.label,
                comment=request.comment,
                relative_stop_points=_given(request, "relativeStopLoss"),
                relative_target_points=_given(request, "relativeTakeProfit"),
            )
        )

    def _close_position(self, request: Any) -> Answer:  # noqa: ANN401
        return self._floor.exchange.close(request.positionId, request.volume)

    def _amend_position(self, request: Any) -> Answer:  # noqa: ANN401
        stop, target = (
            points(getattr(request, name)) if request.HasField(name) else None
            for name in ("stopLoss", "takeProfit")
        )
        return self._floor.exchange.amend(request.positionId, stop, target)


def _given(request: Any, field: str) -> int | None:  # noqa: ANN401
    return int(getattr(request, field)) if request.HasField(field) else None


def _check_period(period: int) -> None:
    if period != model.M5:
        raise RequestError("INVALID_REQUEST", "This venue has bars of the period M5 only")


def spot_event(
    account_id: int,
    symbol_id: int,
    spot: Spot,
    bar: Bar | None,
    *,
    with_stamp: bool,
) -> Message:
    """Return a quote as it is streamed: the sides that moved, and the bar if the bid did."""
    event = messages.ProtoOASpotEvent(ctidTraderAccountId=account_id, symbolId=symbol_id)
    if spot.bid_moved:
        event.bid = spot.bid
        if bar is not None:
            event.trendbar.append(trendbar(bar, period=model.M5))
    if spot.ask_moved:
        event.ask = spot.ask
    if with_stamp:
        event.timestamp = spot.time_ms
    return event  # type: ignore[no-any-return] # the generated classes carry no types


_HANDLERS: dict[str, Callable[[Session, Any], Iterable[Message]]] = {
    "ProtoOAApplicationAuthReq": Session._application_auth,
    "ProtoOAVersionReq": Session._version,
    "ProtoOAGetAccountListByAccessTokenReq": Session._account_list,
    "ProtoOAAccountAuthReq": Session._account_auth,
    "ProtoOARefreshTokenReq": Session._refresh_token,
    "ProtoOAAccountLogoutReq": Session._account_logout,
    "ProtoOAAssetListReq": Session._asset_list,
    "ProtoOASymbolsListReq": Session._symbols_list,
    "ProtoOASymbolByIdReq": Session._symbol_by_id,
    "ProtoOASymbolsForConversionReq": Session._symbols_for_conversion,
    "ProtoOATraderReq": Session._trader,
    "ProtoOAReconcileReq": Session._reconcile,
    "ProtoOAGetPositionUnrealizedPnLReq": Session._unrealized,
    "ProtoOAOrderListReq": Session._order_list,
    "ProtoOADealListReq": Session._deal_list,
    "ProtoOADealListByPositionIdReq": Session._deals_of_position,
    "ProtoOAOrderListByPositionIdReq": Session._orders_of_position,
    "ProtoOAOrderDetailsReq": Session._order_details,
    "ProtoOAGetTrendbarsReq": Session._trendbars,
    "ProtoOASubscribeSpotsReq": Session._subscribe_spots,
    "ProtoOAUnsubscribeSpotsReq": Session._unsubscribe_spots,
    "ProtoOASubscribeLiveTrendbarReq": Session._subscribe_bars,
    "ProtoOAUnsubscribeLiveTrendbarReq": Session._unsubscribe_bars,
}
_TRADES: dict[str, Callable[[Session, Any], Answer | None]] = {
    "ProtoOANewOrderReq": Session._new_order,
    "ProtoOAClosePositionReq": Session._close_position,
    "ProtoOAAmendPositionSLTPReq": Session._amend_position,
}
_HISTORY = frozenset({"ProtoOAGetTrendbarsReq", "ProtoOADealListReq", "ProtoOAOrderListReq"})
