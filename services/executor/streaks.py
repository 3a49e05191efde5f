"""How our last trades ended: losses in a row, and the pause that they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import AwareDatetime, BaseModel, ConfigDict


class Result(BaseModel):
    """How one of our trades ended."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    number: int  # of the execution: it counts from the account entry on that includes it
    at: AwareDatetime
    pnl: Decimal | None  # None: the venue did not say; not known is not won


class Streak(BaseModel):
    """Losses in a row, and when the last one was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    losses: int = 0
    last_loss: AwareDatetime | None = None

    def after(self, results: Sequence[Result]) -> Streak:
        """Return the streak after trades that ended, in their order. A trade that broke even ends it."""
        streak = self
        for result in results:
            if result.pnl is None or result.pnl < 0:
                streak = Streak(losses=streak.losses + 1, last_loss=result.at)
            else:
                streak = Streak()
        return streak

    def rested(self, at: datetime, *, losses_max: int, cooldown_min: int) -> Streak:
        """Return the streak at a slice: a pause that is over has ended it."""
        if self.last_loss is None or self.losses < losses_max:
            return self
        return Streak() if at >= self.last_loss + timedelta(minutes=cooldown_min) else self
