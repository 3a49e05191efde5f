"""Answers about prices: history, and the subscriptions to quotes and forming bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from venue.calendar import DAY_MS
from venue.depth import Change
from venue.past import Tick, bars, ticks
from venue.periods import Period
from venue.protocol import messages, model, set_later_field
from venue.records import Side
from venue.session import AnswerTo, Request, RequestError, Session, symbol_name
from venue.translation import depth_event, trendbar

HISTORY_BARS_MAX = 10_080  # five weeks of M5
TICK_WINDOW_MS_MAX = 7 * DAY_MS
HAS_MORE = 7  # a field of the answer that the official package does not know
TIMESTAMP_MS_MAX = 2_147_483_646_000


def trendbars(session: Session, request: Request) -> Iterable[Message]:
    """Return history: the last bars up to a time, or those of a window."""
    symbol = symbol_name(session, request.symbolId)
    period = _period(request)
    from_ms, to_ms = request.fromTimestamp, min(request.toTimestamp, TIMESTAMP_MS_MAX)
    count = None
    if request.HasField("count"):
        from_ms, count = 0, min(request.count, HISTORY_BARS_MAX)
    elif from_ms > to_ms or to_ms - from_ms > period.window_ms_max:
        raise RequestError(
            "INCORRECT_BOUNDARIES",
            f"fromTimestamp to toTimestamp is not a window of {period.window_ms_max} ms at most",
        )
    page = bars(session.floor.exchange.playback, symbol, period, from_ms, to_ms, count)
    answer = messages.ProtoOAGetTrendbarsRes(
        ctidTraderAccountId=session.account_id,
        period=request.period,
        timestamp=request.toTimestamp,
        trendbar=[trendbar(bar) for bar in page.bars],
        symbolId=request.symbolId,
    )
    if page.has_more:
        set_later_field(answer, HAS_MORE)
    return [answer]


def tick_data(session: Session, request: Request) -> Iterable[Message]:
    """Return a side's changes in a week at most, newest first, each as the difference to the one before."""
    symbol = symbol_name(session, request.symbolId)
    from_ms, to_ms = request.fromTimestamp, min(request.toTimestamp, TIMESTAMP_MS_MAX)
    if from_ms > to_ms or to_ms - from_ms > TICK_WINDOW_MS_MAX:
        raise RequestError("INCORRECT_BOUNDARIES", "fromTimestamp to toTimestamp is not a week at most")
    side = Side.BUY if request.type == model.ASK else Side.SELL
    found, has_more = ticks(session.floor.exchange.playback, symbol, side, from_ms, to_ms)
    data, before = [], Tick(0, 0)
    for tick in found:
        data.append(
            model.ProtoOATickData(timestamp=tick.time_ms - before.time_ms, tick=tick.price - before.price)
        )
        before = tick
    return [
        messages.ProtoOAGetTickDataRes(
            ctidTraderAccountId=session.account_id, tickData=data, hasMore=has_more
        )
    ]


def subscribe_spots(session: Session, request: Request) -> Iterable[Message]:
    """Begin to stream symbols; the last prices follow at once, even of a closed market."""
    symbols = [symbol_name(session, number) for number in request.symbolId]
    for symbol in symbols:
        if symbol in session.spots:
            raise RequestError("ALREADY_SUBSCRIBED", f"Already subscribed to {symbol}")
    yield messages.ProtoOASubscribeSpotsRes(ctidTraderAccountId=session.account_id)
    for symbol in dict.fromkeys(symbols):
        session.spots[symbol] = bool(request.subscribeToSpotTimestamp)
        event = _last_spot(session, symbol)
        if event is not None:
            session.send(event)


def _last_spot(session: Session, symbol: str) -> Message | None:
    """Return the event that follows a subscription: the last prices, even of a closed market."""
    quote = session.floor.exchange.matching.quotes.get(symbol)
    if quote is None:
        return None
    event = messages.ProtoOASpotEvent(
        ctidTraderAccountId=session.account_id,
        symbolId=session.floor.directory.symbol_ids[symbol],
        bid=quote.bid,
        ask=quote.ask,
    )
    if session.spots[symbol]:
        event.timestamp = quote.time_ms
    return event  # type: ignore[no-any-return] # the generated classes carry no types


def unsubscribe_spots(session: Session, request: Request) -> Iterable[Message]:
    """Stop streaming symbols, their bars too."""
    symbols = [symbol_name(session, number) for number in request.symbolId]
    for symbol in symbols:
        _check_spots(session, symbol)
        del session.spots[symbol]
        session.bars.pop(symbol, None)
    return [messages.ProtoOAUnsubscribeSpotsRes(ctidTraderAccountId=session.account_id)]


def subscribe_bars(session: Session, request: Request) -> Iterable[Message]:
    """Add the forming bar of a period to a symbol's stream."""
    symbol, period = symbol_name(session, request.symbolId), _period(request)
    _check_spots(session, symbol)
    streamed = session.bars.get(symbol, ())
    if period in streamed:
        raise RequestError("ALREADY_SUBSCRIBED", f"Already subscribed to the {period} bars of {symbol}")
    session.bars[symbol] = tuple(each for each in Period if each in (*streamed, period))
    playback = session.floor.exchange.playback
    if period is not Period.M5:
        last = bars(playback, symbol, period, 0, playback.time_ms, 1).bars
        playback.follow(symbol, period, last[0] if last else None)
    return [messages.ProtoOASubscribeLiveTrendbarRes(ctidTraderAccountId=session.account_id)]


def unsubscribe_bars(session: Session, request: Request) -> Iterable[Message]:
    """Take the forming bar of a period out of a symbol's stream."""
    symbol, period = symbol_name(session, request.symbolId), _period(request)
    session.bars[symbol] = tuple(each for each in session.bars.get(symbol, ()) if each is not period)
    return [messages.ProtoOAUnsubscribeLiveTrendbarRes(ctidTraderAccountId=session.account_id)]


def subscribe_depth(session: Session, request: Request) -> Iterable[Message]:
    """Begin to stream the depth of symbols; all of it follows at once."""
    symbols = [symbol_name(session, number) for number in request.symbolId]
    for symbol in symbols:
        if symbol in session.depth:
            raise RequestError("ALREADY_SUBSCRIBED", f"Already subscribed to the depth of {symbol}")
    yield messages.ProtoOASubscribeDepthQuotesRes(ctidTraderAccountId=session.account_id)
    for symbol in dict.fromkeys(symbols):
        session.depth.add(symbol)
        quote = session.floor.exchange.matching.quotes.get(symbol)
        if quote is not None:
            levels = session.floor.exchange.depth.whole(symbol, quote)
            number = session.floor.directory.symbol_ids[symbol]
            session.send(depth_event(session.account_id, number, Change(levels, ())))


def unsubscribe_depth(session: Session, request: Request) -> Iterable[Message]:
    """Stop streaming the depth of symbols."""
    for number in request.symbolId:
        session.depth.discard(symbol_name(session, number))
    return [messages.ProtoOAUnsubscribeDepthQuotesRes(ctidTraderAccountId=session.account_id)]


def _period(request: Request) -> Period:
    return Period(model.ProtoOATrendbarPeriod.Name(request.period))


def _check_spots(session: Session, symbol: str) -> None:
    if symbol not in session.spots:
        raise RequestError("INVALID_REQUEST", f"Not subscribed to the spots of {symbol}")


ANSWERS: Mapping[str, AnswerTo] = {
    "ProtoOAGetTrendbarsReq": trendbars,
    "ProtoOAGetTickDataReq": tick_data,
    "ProtoOASubscribeSpotsReq": subscribe_spots,
    "ProtoOAUnsubscribeSpotsReq": unsubscribe_spots,
    "ProtoOASubscribeDepthQuotesReq": subscribe_depth,
    "ProtoOAUnsubscribeDepthQuotesReq": unsubscribe_depth,
    "ProtoOASubscribeLiveTrendbarReq": subscribe_bars,
    "ProtoOAUnsubscribeLiveTrendbarReq": unsubscribe_bars,
}
