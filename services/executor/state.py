"""All that the executor remembers; saved with each commit, readable in `redis-cli`."""

from __future__ import annotations

from decimal import Decimal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.executor.control import Control
from services.executor.limits import LimitName
from services.executor.losses import LossMemory, LossStanding
from services.executor.reservations import Ledger
from services.executor.streaks import Streak
from shared.messages import OrderRequested


class Standing(BaseModel):
    """How far a limit of the whole book was from tripping at the last live slice."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: Decimal | None  # None: not known, which trips
    bound: Decimal | None
    trips: bool
    stops: str
    money: LossStanding | None = None  # of loss limits


class ExecutorState(BaseModel):
    """Control, requests and positions, and what the limits remember."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    control: Control = Field(default_factory=Control)
    ledger: Ledger = Field(default_factory=Ledger)
    losses: dict[LimitName, LossMemory] = {}  # none: no live slice was seen yet
    streak: Streak = Field(default_factory=Streak)
    requested: tuple[AwareDatetime, ...] = ()  # close of each slice that led to a request, of the last hour
    standing: dict[LimitName, Standing] = {}
    leaving: tuple[int, ...] = ()  # positions that a signal has ended, until they are gone
    reversals: dict[int, OrderRequested] = {}  # by position: requests that wait for its closing
