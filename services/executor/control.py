"""The kill switch: one latched state that says whether anything new may be traded.

The table is all there is to it. Nothing but an operator lifts PAUSED or HALTED.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict

from shared.messages import Command


class ControlState(StrEnum):
    """What the book may do."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"  # no new entries; what is open stays
    FLATTENING = "FLATTENING"  # no new entries; ours are closed, then PAUSED
    HALTED = "HALTED"  # nothing that opens or enlarges


class Flattened(StrEnum):
    """What happens to the control without a command."""

    FLATTENED = "flattened"  # no request is open and none of our positions remains


_RUNNING, _PAUSED, _FLATTENING, _HALTED = ControlState
_FLATTENED = Flattened.FLATTENED

TRANSITIONS: dict[tuple[ControlState, Command | Flattened], ControlState] = {
    (_RUNNING, Command.PAUSE): _PAUSED,
    (_RUNNING, Command.RESUME): _RUNNING,
    (_RUNNING, Command.FLATTEN): _FLATTENING,
    (_RUNNING, Command.HALT): _HALTED,
    (_RUNNING, _FLATTENED): _RUNNING,
    (_PAUSED, Command.PAUSE): _PAUSED,
    (_PAUSED, Command.RESUME): _RUNNING,
    (_PAUSED, Command.FLATTEN): _FLATTENING,
    (_PAUSED, Command.HALT): _HALTED,
    (_PAUSED, _FLATTENED): _PAUSED,
    (_FLATTENING, Command.PAUSE): _FLATTENING,  # it ends in PAUSED by itself
    (_FLATTENING, Command.RESUME): _RUNNING,
    (_FLATTENING, Command.FLATTEN): _FLATTENING,
    (_FLATTENING, Command.HALT): _HALTED,
    (_FLATTENING, _FLATTENED): _PAUSED,
    (_HALTED, Command.PAUSE): _HALTED,  # the weaker state does not lift the stronger
    (_HALTED, Command.RESUME): _RUNNING,
    (_HALTED, Command.FLATTEN): _FLATTENING,  # closing ours is always allowed
    (_HALTED, Command.HALT): _HALTED,
    (_HALTED, _FLATTENED): _HALTED,
}


class Control(BaseModel):
    """The latched state, with who set it, why and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: ControlState = ControlState.RUNNING
    who: str = ""
    why: str = "first start"
    since: AwareDatetime | None = None  # None: as the book began, or when that is not known

    @property
    def allows_entries(self) -> bool:
        """Whether a new position may be requested."""
        return self.state is ControlState.RUNNING

    def after(self, what: Command | Flattened, *, who: str, why: str, at: datetime) -> Control:
        """Return the control after a command, itself if the state does not change."""
        state = TRANSITIONS[self.state, what]
        return self if state is self.state else Control(state=state, who=who, why=why, since=at)


def unreadable(why: str) -> Control:
    """Return the control of a book whose saved state cannot be read: nothing is traded until resumed."""
    return Control(state=ControlState.HALTED, who="executor", why=f"the saved state is unreadable: {why}")
