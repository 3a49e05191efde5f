"""How much of an order one quote fills, and how much worse than its price. Pure.

Drawn from a seed, the order and the quote's time alone: the same run gives the same fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct

_KEY = Struct("<QQq")
_DRAWS = Struct("<II")
_UNIT = 2**32


@dataclass(frozen=True, slots=True)
class Liquidity:
    """The depth behind the quotes. As it stands by default every order fills in full at the quote.

    Attributes:
        seed: of the draws.
        slippage_ticks_max: a fill that takes any price is worse than its quote by 0 to so many ticks, each
            as likely as the others.
        partial_fraction: the share of quotes that fill only a part, of an order of two steps or more.
    """

    seed: int = 0
    slippage_ticks_max: int = 0
    partial_fraction: float = 0.0

    def slippage_ticks(self, order_id: int, time_ms: int) -> int:
        """Return how many ticks a fill at this time is worse than its quote."""
        if not self.slippage_ticks_max:
            return 0
        return self._draws(order_id, time_ms, b"slip")[0] * (self.slippage_ticks_max + 1) // _UNIT

    def offered_cents(self, order_id: int, time_ms: int, wanted_cents: int, step_cents: int) -> int:
        """Return how much of a volume is to be had at this quote: all of it, or a part on the grid."""
        steps = wanted_cents // step_cents
        if not self.partial_fraction or steps < 2:
            return wanted_cents
        whether, how_much = self._draws(order_id, time_ms, b"part")
        if whether >= self.partial_fraction * _UNIT:
            return wanted_cents
        return (1 + how_much * (steps - 1) // _UNIT) * step_cents

    def _draws(self, order_id: int, time_ms: int, purpose: bytes) -> tuple[int, int]:
        key = _KEY.pack(self.seed, order_id, time_ms)
        first, second = _DRAWS.unpack(blake2b(key, digest_size=_DRAWS.size, person=purpose).digest())
        return first, second
