"""What all parts of the order desk work with."""

from __future__ import annotations

from dataclasses import dataclass

from services.gateway.account import AccountKeeper
from services.gateway.background import Alarms, Background
from services.gateway.journal import Journal
from services.gateway.line import Line
from services.gateway.timing import Timing


@dataclass(frozen=True, slots=True)
class Context:
    """One book's journal, account and line to the venue; clocks, tasks and alarms."""

    journal: Journal
    account: AccountKeeper
    line: Line
    timing: Timing
    background: Background
    alarms: Alarms
