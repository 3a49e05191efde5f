"""What a flat or opposite signal does to a position of ours: nothing, close it, or close and turn it round.

The models were trained with one of these policies, and their bundle says which: with another one nothing is
traded. A reversal is decided and sized at its slice, as if the position were gone, and asked for once the
venue has said that it is; at the next slice it is given up.
"""

from __future__ import annotations

from dataclasses import replace

from services.executor.control import ControlState
from services.executor.reservations import close_time_of
from services.executor.situation import Situation
from services.executor.state import ExecutorState
from shared.messages import (
    CloseRequested,
    EntryRefused,
    ExecutionKind,
    ExecutionReported,
    Message,
    Meta,
    OpenPosition,
    OrderRequested,
    PositionReported,
    SignalEmitted,
    Verdict,
)

_CLOSES_IN = (ControlState.RUNNING, ControlState.PAUSED)  # flattening closes all, a halt is hands off


def leaving(seen: Situation) -> PositionReported | None:
    """Return the position of ours that the signal ends; None: there is none, or it stays."""
    signal, policy = seen.signal, seen.policy
    stays = policy.open_position is OpenPosition.HOLD or signal.open_position is not policy.open_position
    if stays or not seen.live or signal.synthetic or seen.state.control.state not in _CLOSES_IN:
        return None
    for position in seen.account.positions:
        ours = close_time_of(position.client_order_id or "", book=policy.book) is not None
        if position.symbol == signal.symbol and ours and position.position_id not in seen.state.leaving:
            opposed = signal.direction.sign == -position.direction.sign
            return position if opposed or signal.verdict is Verdict.FLAT else None
    return None


def closed(position: PositionReported, seen: Situation) -> tuple[CloseRequested, Situation]:
    """Return the request to close a position; it is asked for once."""
    number, state = position.position_id, seen.state
    request = CloseRequested(
        meta=seen.signal.meta.effect(CloseRequested, str(number)),
        client_order_id=position.client_order_id or "",
        symbol=position.symbol,
        position_id=number,
        reason="SIGNAL",
        inputs=seen.inputs,
    )
    known = {key: each for key, each in state.ledger.positions.items() if key == number}
    changes = {"leaving": (*state.leaving, number), "ledger": state.ledger.with_closing(known)}
    return request, replace(seen, state=state.model_copy(update=changes))


def without(position: PositionReported, seen: Situation) -> Situation:
    """Return the situation as it will be when a position is closed; its floating result is realised."""
    account = seen.account
    changes = {
        "positions": tuple(each for each in account.positions if each is not position),
        "used_margin": account.used_margin - position.used_margin,
        "free_margin": account.free_margin + position.used_margin,
    }
    return replace(seen, account=account.model_copy(update=changes))


def kept_back(position: PositionReported, request: OrderRequested, state: ExecutorState) -> ExecutorState:
    """Return the state with a reversal that waits for its position to be closed."""
    return state.model_copy(update={"reversals": state.reversals | {position.position_id: request}})


def given_up(
    state: ExecutorState, signal: SignalEmitted, inputs: dict[str, str]
) -> tuple[list[Message], ExecutorState]:
    """Return the refusals of reversals whose position was not closed by the next slice."""
    if not state.reversals:
        return [], state
    refusals = [_refused(request, "NOT_CLOSED", signal, inputs) for request in state.reversals.values()]
    return list(refusals), _dropped(state, *state.reversals)


def reversed_on(
    state: ExecutorState, execution: ExecutionReported, inputs: dict[str, str]
) -> tuple[list[Message], ExecutorState]:
    """Return the reversal that waited for this closing, as a request, or as a refusal after a stop."""
    request = state.reversals.get(execution.position_id or 0)
    if request is None or execution.kind is not ExecutionKind.CLOSED:
        return [], state
    if not state.control.allows_entries:
        refused = _refused(request, state.control.state, execution, inputs)
        return [refused], _dropped(state, execution.position_id or 0)
    meta = _caused_by(request.meta, execution)
    rest = {number: each for number, each in state.reversals.items() if each is not request}
    return [request.model_copy(update={"meta": meta, "inputs": inputs})], state.model_copy(
        update={"reversals": rest}
    )


def _dropped(state: ExecutorState, *numbers: int) -> ExecutorState:
    """Return the state without some reversals; what they had reserved is free."""
    keys = {state.reversals[number].client_order_id for number in numbers}
    requests = {key: each for key, each in state.ledger.requests.items() if key not in keys}
    changes = {
        "reversals": {number: each for number, each in state.reversals.items() if number not in numbers},
        "ledger": state.ledger.model_copy(update={"requests": requests}),
    }
    return state.model_copy(update=changes)


def _refused(request: OrderRequested, reason: str, cause: Message, inputs: dict[str, str]) -> EntryRefused:
    return EntryRefused(
        meta=_caused_by(request.meta, cause),
        client_order_id=request.client_order_id,
        symbol=request.symbol,
        direction=request.direction,
        reason=reason,
        detail="the position that stood the other way was closed too late, or not at all"
        if reason == "NOT_CLOSED"
        else f"{reason} when the position that stood the other way was closed",
        account_id=request.account_id,
        inputs=inputs,
    )


def _caused_by(meta: Meta, cause: Message) -> Meta:
    """Return the meta of a decision that belongs to one slice and was brought about by a later message."""
    return meta.model_copy(
        update={"causation_id": cause.meta.message_id, "event_time": cause.meta.event_time}
    )
