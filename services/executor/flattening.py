"""Control changes and what follows from them: announcements, and the closing of our positions."""

from __future__ import annotations

import json

from services.executor.control import Control, ControlState, Flattened
from services.executor.limits import Limit
from services.executor.losses import LossRule, resumed
from services.executor.state import ExecutorState
from shared.messages import CloseRequested, Command, CommandGiven, EventReported, Message, Severity

_SEVERITY = {
    ControlState.RUNNING: Severity.INFO,
    ControlState.PAUSED: Severity.WARNING,
    ControlState.FLATTENING: Severity.WARNING,
    ControlState.HALTED: Severity.CRITICAL,
}
_FLAT = "no request is open and none of our positions remains"


def after_command(
    state: ExecutorState, command: CommandGiven, losses: tuple[LossRule, ...], inputs: dict[str, str]
) -> tuple[list[Message], ExecutorState]:
    """Return what an operator's command leads to. It is always answered, changed or not.

    A resume lifts what limits have latched until then; the next slice measures them anew.
    """
    control = state.control.after(
        command.command, who=command.who, why=command.why, at=command.meta.event_time
    )
    messages: list[Message] = [_announced(control, command, inputs)]
    state = state.model_copy(update={"control": control})
    if command.command is Command.RESUME:
        lifted = resumed(state.losses, losses)
        standing = {
            name: each for name, each in state.standing.items() if lifted.get(name) == state.losses.get(name)
        }
        state = state.model_copy(update={"losses": lifted, "standing": standing})
    more, state = flatten_on(state, command, inputs)
    return messages + more, state


def begun_by_limit(
    state: ExecutorState, limit: Limit, cause: Message, inputs: dict[str, str]
) -> tuple[list[Message], ExecutorState]:
    """Return the announcement and the state of a book that a limit flattens. A halt is not lifted by it."""
    if state.control.state not in (ControlState.RUNNING, ControlState.PAUSED):
        return [], state
    control = state.control.after(Command.FLATTEN, who="executor", why=limit.text, at=cause.meta.event_time)
    return [_announced(control, cause, inputs)], state.model_copy(update={"control": control})


def flatten_on(
    state: ExecutorState, cause: Message, inputs: dict[str, str]
) -> tuple[list[Message], ExecutorState]:
    """Return the next step of a flattening: ours are closed as they appear; once flat, PAUSED.

    A repeated command asks again for positions whose closing was refused.
    """
    if state.control.state is not ControlState.FLATTENING:
        return [], state
    closing = state.ledger.closable(again=isinstance(cause, CommandGiven))
    messages: list[Message] = [
        CloseRequested(
            meta=cause.meta.effect(CloseRequested, str(number)),
            client_order_id=position.client_order_id,
            symbol=position.symbol,
            position_id=number,
            reason="FLATTEN",
            inputs=inputs,
        )
        for number, position in sorted(closing.items())
    ]
    state = state.model_copy(update={"ledger": state.ledger.with_closing(closing)})
    if state.ledger.is_flat:
        who, at = state.control.who, cause.meta.event_time
        control = state.control.after(Flattened.FLATTENED, who=who, why=_FLAT, at=at)
        messages.append(_announced(control, cause, inputs))
        state = state.model_copy(update={"control": control})
    return messages, state


def _announced(control: Control, cause: Message, inputs: dict[str, str]) -> EventReported:
    details = {"state": control.state.value, "who": control.who, "why": control.why}
    details["inputs"] = json.dumps(inputs)  # what was read before: a replay keeps to that order
    if isinstance(cause, CommandGiven):
        details |= {"command": cause.command.value, "command_id": str(cause.meta.message_id)}
    return EventReported(
        meta=cause.meta.effect(EventReported, f"control:{control.state}"),
        service="executor",
        kind="control",
        severity=_SEVERITY[control.state],
        text=f"{control.state} by {control.who or 'nobody'}: {control.why}",
        details=details,
    )
