"""How long each symbol has said nothing while its market is open, and what is due then. Pure."""

from __future__ import annotations

from enum import IntEnum


class Step(IntEnum):
    """What is done about a silent symbol, one after the other."""

    NOTHING = 0
    SUBSCRIBE = 1
    RECONNECT = 2
    DEGRADE = 3


class Silence:
    """Each step is due after another `quiet_s` seconds of the machine without a new quote."""

    def __init__(self, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._since_s: dict[str, float] = {}
        self._stamps_ms: dict[str, int] = {}
        self._steps: dict[str, Step] = {}
        self._subscribed: set[str] = set()  # their last price is to come

    def heard(self, symbol: str, stamp_ms: int, now_s: float) -> Step:
        """Take a quote, and return how far it had come.

        The price that follows a subscription is no news: it is the last one, and may be old.
        """
        is_last = symbol in self._subscribed
        if is_last:
            self._subscribed.remove(symbol)
        if stamp_ms <= self._stamps_ms.get(symbol, 0):
            return Step.NOTHING
        self._stamps_ms[symbol] = stamp_ms
        if is_last:
            return Step.NOTHING
        self._since_s[symbol] = now_s
        return self._steps.pop(symbol, Step.NOTHING) if self._steps else Step.NOTHING

    def restart(self) -> None:
        """Begin to count anew, on a new connection; how far a symbol had come is kept."""
        self._since_s.clear()
        self._subscribed.clear()

    def due(self, symbol: str, now_s: float, *, is_open: bool) -> Step:
        """Return what is to be done now; each step is returned once."""
        if not is_open:
            self._since_s.pop(symbol, None)
            return Step.NOTHING
        silent_s = now_s - self._since_s.setdefault(symbol, now_s)
        step = self._steps.get(symbol, Step.NOTHING)
        if silent_s < self._quiet_s or step is Step.DEGRADE:
            return Step.NOTHING
        self._steps[symbol] = Step(step + 1)
        if self._steps[symbol] is Step.SUBSCRIBE:
            self._subscribed.add(symbol)
        self._since_s[symbol] = now_s
        return self._steps[symbol]

    def degraded(self) -> list[str]:
        """Return the symbols for which nothing more can be done."""
        return [symbol for symbol, step in self._steps.items() if step is Step.DEGRADE]
