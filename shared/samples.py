"""The newest durations of something that is done again and again, and their percentiles. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

KEPT = 1_000


class Samples:
    """The last thousand durations, in seconds."""

    def __init__(self) -> None:
        self._kept_s: deque[float] = deque()  # in the order they came
        self._ordered_s: list[float] = []  # the same, from the shortest on

    def add(self, took_s: float) -> None:
        """Take one more; the oldest goes."""
        kept, ordered = self._kept_s, self._ordered_s
        if len(kept) == KEPT:
            del ordered[bisect_left(ordered, kept.popleft())]
        kept.append(took_s)
        insort(ordered, took_s)

    def percentile_ms(self, share: float) -> float | None:
        """Return the nearest-rank percentile in milliseconds; None while there is nothing."""
        ordered = self._ordered_s
        return round(1000 * ordered[math.ceil(share * len(ordered)) - 1], 3) if ordered else None
