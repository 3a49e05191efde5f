"""When the venue wrote the first quote of a bar, and when an order's bytes arrived: for latency benchmarks.

Times are seconds of the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

from venue.calendar import M5_MS

Key = TypeVar("Key", int, str)

KEPT_MAX = 5_000  # the newest; the older are forgotten


@dataclass
class Stopwatch:
    """Both ends of the way from a close to an order, as seen from the venue."""

    first_quotes: OrderedDict[int, float] = field(default_factory=OrderedDict)  # open time of the bar, ms
    orders: OrderedDict[str, float] = field(default_factory=OrderedDict)  # client order id
    _begun_ms: int = 0
    _unwritten_ms: int | None = None

    def queued(self, quote_ms: int) -> None:
        """A quote is on its way out."""
        open_ms = quote_ms // M5_MS * M5_MS
        if open_ms > self._begun_ms:
            self._begun_ms = self._unwritten_ms = open_ms

    def written(self, now_s: float) -> None:
        """All that was on its way was handed to the sockets."""
        if self._unwritten_ms is not None:
            _keep(self.first_quotes, self._unwritten_ms, now_s)
            self._unwritten_ms = None

    def arrived(self, client_order_id: str, at_s: float) -> None:
        """An order was read; of two with one id the first counts."""
        if client_order_id and client_order_id not in self.orders:
            _keep(self.orders, client_order_id, at_s)


def _keep(times: OrderedDict[Key, float], key: Key, at_s: float) -> None:
    times[key] = at_s
    while len(times) > KEPT_MAX:
        times.popitem(last=False)
