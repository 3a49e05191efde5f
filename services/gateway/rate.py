"""When each message may leave: orders first, and never faster than the venue allows. Pure: time is given.

The venue allows 50 requests a second, and 5 for history. However it counts its seconds, what may leave at
once and what follows at the steady rate together stay within that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

Item = TypeVar("Item")

ROUNDING = 1e-9  # of a token: sums of floats may miss one by so much


class Urgency(IntEnum):
    """What leaves before what. The first has a part of the burst for itself."""

    ORDER = 0
    REQUEST = 1
    HISTORY = 2  # has a limit of its own beside the common one


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates per second, and how many may leave at once after a silence."""

    per_s: float = 40.0
    burst: float = 10.0
    for_orders: float = 5.0  # of the burst
    history_per_s: float = 4.0
    history_burst: float = 1.0


class TokenBucket:
    """Gains `rate` tokens a second, up to `size`."""

    def __init__(self, rate: float, size: float) -> None:
        self._rate, self._size = rate, size
        self._tokens, self._at_s = size, 0.0

    def wait_s(self, now_s: float, tokens: float = 1.0) -> float:
        """Return how long it takes until so many tokens are there, in seconds; 0.0: they are."""
        if now_s > self._at_s:
            self._tokens = min(self._size, self._tokens + (now_s - self._at_s) * self._rate)
            self._at_s = now_s
        missing = tokens - self._tokens
        return missing / self._rate if missing > ROUNDING else 0.0

    def take(self) -> None:
        """Take one token; `wait_s` has said that it is there."""
        self._tokens -= 1


@dataclass(eq=False, slots=True)
class Waiting(Generic[Item]):
    """Something that waits to leave."""

    item: Item
    kind: int  # the venue blocks kinds of requests, each by itself
    urgency: Urgency
    withdrawn: bool = False


class Departures(Generic[Item]):
    """A queue for each urgency; within one, first come, first out."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all = TokenBucket(limits.per_s, limits.burst)
        self._history = TokenBucket(limits.history_per_s, limits.history_burst)
        self._queues: dict[Urgency, deque[Waiting[Item]]] = {urgency: deque() for urgency in Urgency}
        self._blocked_until_s: dict[int, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def offer(self, waiting: Waiting[Item]) -> None:
        """Let something wait for its turn."""
        self._queues[waiting.urgency].append(waiting)

    def withdraw(self, waiting: Waiting[Item]) -> None:
        """Nobody waits for it any more: it does not leave, and costs nothing."""
        waiting.withdrawn = True

    def block(self, kind: int, until_s: float) -> None:
        """Hold requests of a kind back until then. Orders are not held: they are worth seconds only."""
        self._blocked_until_s[kind] = max(until_s, self._blocked_until_s.get(kind, 0.0))

    def take(self, now_s: float) -> list[Item]:
        """Return what may leave now, in order."""
        leaving = []
        for urgency, queue in self._queues.items():
            while queue and (waiting := self._first(queue, now_s)) and self._wait_s(urgency, now_s) == 0.0:
                queue.remove(waiting)
                self._all.take()
                if urgency is Urgency.HISTORY:
                    self._history.take()
                leaving.append(waiting.item)
        return leaving

    def wait_s(self, now_s: float) -> float | None:
        """Return how long until something may leave, in seconds; None: nothing waits."""
        waits = [
            max(self._wait_s(urgency, now_s), self._held_s(waiting, now_s))
            for urgency, queue in self._queues.items()
            for waiting in queue
            if not waiting.withdrawn
        ]
        return min(waits, default=None)

    def _first(self, queue: deque[Waiting[Item]], now_s: float) -> Waiting[Item] | None:
        while queue and queue[0].withdrawn:
            queue.popleft()
        for waiting in queue:
            if not waiting.withdrawn and self._held_s(waiting, now_s) == 0.0:
                return waiting
        return None

    def _held_s(self, waiting: Waiting[Item], now_s: float) -> float:
        if waiting.urgency is Urgency.ORDER or not self._blocked_until_s:
            return 0.0
        return max(0.0, self._blocked_until_s.get(waiting.kind, 0.0) - now_s)

    def _wait_s(self, urgency: Urgency, now_s: float) -> float:
        """Return how long until the limits let something of an urgency leave."""
        if urgency is Urgency.ORDER:
            return self._all.wait_s(now_s)
        wait_s = self._all.wait_s(now_s, 1.0 + self._limits.for_orders)
        return max(wait_s, self._history.wait_s(now_s)) if urgency is Urgency.HISTORY else wait_s
