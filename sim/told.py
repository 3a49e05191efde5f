"""What the venue has told a gateway of each bar: where it keeps quotes back, nobody can know more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from services.gateway.protocol import TYPES  # first: it installs the reactor

# isort: split
from shared import messages as m
from shared import streams
from sim.server import Write
from sim.world import World
from venue.calendar import M5_MS
from venue.protocol import messages, model

Prices = tuple[int, int, int, int]  # open, high, low, close, in points
Place = tuple[str, int]  # a symbol, and when its bar was opened


class ToldBars:
    """Follows every message that reaches a gateway, and looks at each bar when it is written."""

    def __init__(self, world: World) -> None:
        """Listen in from now on."""
        self._venue = world.venue
        self._prices: dict[Place, Prices] = {}  # as they were told last
        self._in_time: dict[Place, Prices] = {}  # the same, before the bar was over
        self._stamps_ms: dict[str, int] = {}
        self._as_told: set[Place] = set()
        world.venue.on_told.append(self._take)
        world.server.on_commit.append(self._look)

    def was_told(self, bar: m.BarClosed) -> bool:
        """Whether a bar was written as it was told last; made up, where nothing of it was told in time.

        What comes after the bar's end may be in it or not: its slice is given out as soon as it can be.
        """
        return _place(bar) in self._as_told

    def _take(self, envelope: Any) -> None:  # noqa: ANN401 - generated class
        read = _READ.get(TYPES[envelope.payloadType].DESCRIPTOR.name)
        if read is not None:
            message = TYPES[envelope.payloadType]()
            message.ParseFromString(envelope.payload)
            read(self, message)

    def _take_history(self, history: Any) -> None:  # noqa: ANN401
        symbol = self._venue.symbol(history.symbolId)
        for bar in history.trendbar:
            if symbol is not None and history.period == model.M5:
                place = symbol, bar.utcTimestampInMinutes * 60_000
                high, close = bar.low + bar.deltaHigh, bar.low + bar.deltaClose
                self._tell(place, (bar.low + bar.deltaOpen, high, bar.low, close))

    def _take_spot(self, spot: Any) -> None:  # noqa: ANN401
        """Take a quote: its own bar if it has one, else what its bid does to the bar that it is in."""
        symbol = self._venue.symbol(spot.symbolId)
        if symbol is None or not spot.HasField("bid"):
            return
        place = symbol, spot.timestamp - spot.timestamp % M5_MS
        is_news = spot.timestamp > self._stamps_ms.get(symbol, 0)
        if place[1] < self._stamps_ms.get(symbol, 0) // M5_MS * M5_MS:
            return  # the symbol's next bar has begun: this one is over for whoever listens
        self._stamps_ms[symbol] = max(spot.timestamp, self._stamps_ms.get(symbol, 0))
        for bar in spot.trendbar:
            if bar.period == model.M5 and bar.utcTimestampInMinutes * 60_000 == place[1]:
                self._tell(place, (bar.low + bar.deltaOpen, bar.low + bar.deltaHigh, bar.low, spot.bid))
                return
        if is_news:
            open_, high, low, _ = self._prices.get(place, (spot.bid,) * 4)
            self._tell(place, (open_, max(high, spot.bid), min(low, spot.bid), spot.bid))

    def _tell(self, place: Place, prices: Prices) -> None:
        self._prices[place] = prices
        if self._venue.exchange.now_ms < place[1] + M5_MS:
            self._in_time[place] = prices

    def _look(self, write: Write) -> None:
        for output in write.outputs:
            message = output.message
            if isinstance(message, m.BarClosed):
                place = _place(message)
                told = (self._prices.get(place), self._in_time.get(place))
                if (None if message.synthetic else prices_of(message)) in told:
                    self._as_told.add(place)


def prices_of(bar: m.BarClosed) -> Prices:
    """Return a bar's prices in points."""
    open_, high, low, close = (int(price * 100_000) for price in (bar.open, bar.high, bar.low, bar.close))
    return open_, high, low, close


def _place(bar: m.BarClosed) -> Place:
    return bar.symbol, streams.milliseconds(bar.open_time)


_READ: Mapping[str, Callable[[ToldBars, Any], None]] = {
    messages.ProtoOASpotEvent.DESCRIPTOR.name: ToldBars._take_spot,
    messages.ProtoOAGetTrendbarsRes.DESCRIPTOR.name: ToldBars._take_history,
}
