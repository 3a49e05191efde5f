"""What becomes of a slice's signals: order requests and refusals, each symbol seeing those before it.

A decision rests on the signals, the account entry they name, the requests made before and the control
state; nothing else, no clock. Executions count as of the account's number, so that the same streams give
the same decisions however the streams ran against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

from services.executor import exits, rules
from services.executor.flattening import begun_by_limit
from services.executor.limits import Limit, LimitName, Rule, number
from services.executor.losses import memories_after
from services.executor.policy import Policy
from services.executor.reservations import Request, after_account, client_order_id
from services.executor.situation import Situation
from services.executor.sizing import NotSized, Sized, size_position
from services.executor.state import ExecutorState, Standing
from shared.contracts import Contract
from shared.errors import UnavailableError
from shared.messages import (
    AccountReported,
    Direction,
    EntryRefused,
    EventReported,
    Message,
    OpenPosition,
    OrderRequested,
    Severity,
    SignalEmitted,
    Verdict,
)

_MISMATCH = "the models were trained to {} a position at a flat or opposite signal, this book is set to {}"
_UNKNOWN_STATE = "the saved state was unreadable; entries begin at the next slice"


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    detail: str


def decide_slice(
    signals: Sequence[SignalEmitted],
    account: AccountReported,
    state: ExecutorState,
    contracts: Mapping[str, Contract],
    policy: Policy,
    inputs: dict[str, str],
) -> tuple[list[Message], ExecutorState]:
    """Return what a slice leads to and the state after it.

    Args:
        signals: all of one slice, in symbol order.
        account: the entry that the signals name.
        state: the state before.
        contracts: the venue's terms that the account entry goes with, by symbol.
        policy: what the book may risk.
        inputs: last id read of every stream, written into each decision.

    Raises:
        UnavailableError: the account includes an execution that was not read yet.
    """
    ledger, close_time = state.ledger, signals[0].close_time
    if ledger.decided_until is not None and close_time <= ledger.decided_until:
        return [], state  # a known id is never decided anew
    if ledger.is_known and account.execution_number > ledger.last_execution:
        raise UnavailableError(
            f"account includes execution {account.execution_number}, read up to {ledger.last_execution}"
        )
    is_known = ledger.is_known
    if not is_known:
        state = state.model_copy(update={"ledger": after_account(ledger, account, book=policy.book)})
    if ledger.results or state.leaving:
        open_now = {position.position_id for position in account.positions}
        changes = {
            "streak": state.streak.after(ledger.results_as_of(account.execution_number)),
            "leaving": tuple(number for number in state.leaving if number in open_now),
        }
        state = state.model_copy(update=changes)
    messages, state = exits.given_up(state, signals[-1], inputs)
    situation = Situation(signals[-1], account, state, contracts, policy, inputs, is_known)
    standing = state.standing
    if situation.live:
        told, standing, situation = _measured(situation)
        messages += told
    for signal in signals:
        if signal.verdict is Verdict.ALLOW or policy.open_position is not OpenPosition.HOLD:
            decided, situation = _follow(replace(situation, signal=signal))
            messages += decided
    ledger = situation.state.ledger.without_settled(account.execution_number, close_time)
    return messages, situation.state.model_copy(update={"ledger": ledger, "standing": standing})


# --- what the limits remember ---------------------------------------------------------------------


def _measured(situation: Situation) -> tuple[list[Message], dict[LimitName, Standing], Situation]:
    """Bring what the limits remember up to a live slice; tell what trips, and what trips no more."""
    before, policy, account = situation.state, situation.policy, situation.account
    close_time = situation.signal.close_time
    changes = {
        "losses": memories_after(policy.losses, before.losses, close_time, account),
        "streak": before.streak.rested(
            close_time, losses_max=policy.losing_streak_max, cooldown_min=policy.losing_streak_cooldown_min
        ),
        "requested": tuple(at for at in before.requested if at > close_time - rules.HOUR),
    }
    situation = replace(situation, state=before.model_copy(update=changes))
    limits = list(rules.of_book(situation))
    standing = {limit.name: rules.standing(limit, situation) for _, limit in limits}
    changed = [
        (rule, limit)
        for rule, limit in limits
        if rule.told is not None and limit.trips != _tripped(before, limit.name)
    ]
    messages: list[Message] = [_told(rule, limit, situation) for rule, limit in changed]
    broken = [limit for _, limit in changed if limit.trips and policy.loss_rule(limit.name)]
    if broken and policy.flatten_on_loss:
        announced, state = begun_by_limit(situation.state, broken[0], situation.signal, situation.inputs)
        messages += announced
        situation = replace(situation, state=state)
    measured = {limit.name: limit for rule, limit in limits if rule.of_slice}
    return messages, standing, replace(situation, measured=measured)


def _tripped(state: ExecutorState, name: LimitName) -> bool:
    return name in state.standing and state.standing[name].trips


def _told(rule: Rule[Situation], limit: Limit, situation: Situation) -> EventReported:
    text = limit.text if limit.trips else f"{limit.name} stops nothing any more"
    account = situation.account
    return EventReported(
        meta=situation.signal.meta.effect(EventReported, limit.name),
        service="executor",
        kind="limit",
        severity=(rule.told or Severity.INFO) if limit.trips else Severity.INFO,
        text=text,
        details={"limit": limit.name, "equity": str(account.equity), "balance": str(account.balance)},
    )


# --- one symbol -----------------------------------------------------------------------------------


def _follow(situation: Situation) -> tuple[list[Message], Situation]:
    """Return what one signal leads to: a closing, and a request now or kept back, or a refusal."""
    signal, messages = situation.signal, list[Message]()
    position = exits.leaving(situation)
    if position is not None:
        closing, situation = exits.closed(position, situation)
        messages.append(closing)
    key = client_order_id(situation.policy.book, signal.close_time, signal.symbol)
    if signal.verdict is not Verdict.ALLOW or key in situation.state.ledger.requests:
        return messages, situation
    if position is None or situation.policy.open_position is not OpenPosition.REVERSE:
        message, situation = _decide(key, situation)
        return [*messages, message], situation
    message, turned = _decide(key, exits.without(position, situation))
    if not isinstance(message, OrderRequested):
        return [*messages, message], situation
    state = exits.kept_back(position, message, turned.state)
    return messages, replace(situation, state=state)


# --- one entry ------------------------------------------------------------------------------------


def _decide(key: str, situation: Situation) -> tuple[Message, Situation]:
    """Return a request with its slot and margin reserved, or the refusal."""
    size, signal = _sized(situation), situation.signal
    if isinstance(size, _Refusal):
        refused = EntryRefused(
            meta=signal.meta.effect(EntryRefused, signal.symbol),
            client_order_id=key,
            symbol=signal.symbol,
            direction=signal.direction,
            reason=size.reason,
            detail=size.detail,
            account_id=signal.account_id,
            inputs=situation.inputs,
        )
        return refused, situation
    request = _requested(key, size, situation)
    return request, _with_reserved(request, size, situation)


def _requested(key: str, size: Sized, situation: Situation) -> OrderRequested:
    signal = situation.signal
    return OrderRequested.model_validate(  # `_lacking` and the limits have refused what may be None
        {
            "meta": signal.meta.effect(OrderRequested, signal.symbol),
            "client_order_id": key,
            "symbol": signal.symbol,
            "direction": signal.direction,
            "volume_units": size.volume_units,
            "stop_distance": signal.stop_distance,
            "target_distance": signal.target_distance,
            "valid_until": signal.close_time + timedelta(seconds=situation.policy.valid_for_s),
            "risk_fraction": signal.risk_fraction,
            "sl_mult": signal.sl_mult,
            "tp_mult": signal.tp_mult,
            "equity": situation.account.equity,
            "reserved_margin": size.margin,
            "bound_by": size.bound_by,
            "account_id": signal.account_id,
            "inputs": situation.inputs,
        }
    )


def _with_reserved(request: OrderRequested, size: Sized, situation: Situation) -> Situation:
    state, close_time = situation.state, situation.signal.close_time
    reserved = Request(
        symbol=request.symbol,
        direction=request.direction,
        close_time=close_time,
        margin=size.margin,
        notional=size.notional,
    )
    grown = {
        "ledger": state.ledger.with_request(request.client_order_id, reserved),
        "requested": (*state.requested, close_time),
    }
    return replace(situation, state=state.model_copy(update=grown))


def _sized(situation: Situation) -> Sized | _Refusal:
    """Return the size of an entry that nothing stops, or what stops it first."""
    control, signal = situation.state.control, situation.signal
    if not control.allows_entries:
        return _Refusal(control.state, f"{control.state} by {control.who}: {control.why}")
    if signal.open_position is not situation.policy.open_position:
        return _Refusal(
            "POLICY_MISMATCH", _MISMATCH.format(signal.open_position, situation.policy.open_position)
        )
    if not situation.is_known:
        return _Refusal("STATE_UNKNOWN", _UNKNOWN_STATE)
    tripped = rules.first_tripped(situation)
    if tripped is not None:
        return _Refusal(tripped.name, tripped.text)
    contract, quote = situation.contracts.get(signal.symbol), situation.quote
    if contract is None or quote is None:
        return _Refusal("CONTRACT_UNKNOWN", f"no terms of {signal.symbol} as this account entry knows them")
    lacking = _lacking(signal, contract)
    if lacking:
        return _Refusal("SIGNAL_INCOMPLETE", lacking)
    usd_conversion = situation.usd_conversion
    if usd_conversion is None:
        return _Refusal("CONVERSION_UNKNOWN", f"no rate from USD to {situation.account.currency}")
    size = size_position(
        contract,
        situation.funds,
        price=quote.ask if signal.direction is Direction.LONG else quote.bid,
        stop_distance=signal.stop_distance or Decimal(0),
        risk_fraction=number(signal.risk_fraction or 0.0),
        conversion=quote.conversion,
        usd_conversion=usd_conversion,
        policy=situation.policy.sizing,
    )
    return _Refusal(size.reason, size.detail) if isinstance(size, NotSized) else size


def _lacking(signal: SignalEmitted, contract: Contract) -> str:
    """Return what an allowed signal lacks to become an order; '' if nothing."""
    if signal.direction is Direction.FLAT:
        return "it has no direction"
    if signal.sl_mult is None or signal.tp_mult is None:
        return "it does not say how its stops were decoded"
    least = max(contract.tick, contract.min_stop_distance)
    for name in ("stop_distance", "target_distance"):
        distance: Decimal | None = getattr(signal, name)
        if distance is None or distance < least:
            return f"{name} {distance}: at least {least:f}"
    return ""
