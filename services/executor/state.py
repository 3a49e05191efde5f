"""All that the executor remembers; saved with each commit, readable in `redis-cli`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from services.executor.control import Control
from services.executor.days import Day
from services.executor.reservations import Ledger


class ExecutorState(BaseModel):
    """Control, requests and positions, and the running day."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    control: Control = Field(default_factory=Control)
    ledger: Ledger = Field(default_factory=Ledger)
    day: Day | None = None  # None: no live slice was seen yet
