"""Token buckets: how fast requests may leave. Pure; time is an argument."""

from __future__ import annotations


class TokenBucket:
    """Allows `rate` a second on average and `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at_s = burst, 0.0

    def wait_s(self, now_s: float) -> float:
        """Take one token; return how long to wait before sending, in seconds."""
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)
