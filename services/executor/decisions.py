"""What becomes of a slice's signals: order requests and refusals, each symbol seeing those before it.

A decision rests on the signals, the account entry they name, the requests made before and the control
state; nothing else, no clock. Executions count as of the account's number, so that the same streams give
the same decisions however the streams ran against each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

from services.executor import limits
from services.executor.days import Day, EquityMark, day_after, loss_fraction
from services.executor.limits import Limit, LimitName, Policy, first_tripped
from services.executor.reservations import Request, after_account, client_order_id
from services.executor.sizing import Funds, NotSized, Sized, size_position
from services.executor.state import ExecutorState
from shared.contracts import Contract
from shared.errors import UnavailableError
from shared.messages import (
    AccountReported,
    Direction,
    EntryRefused,
    EventReported,
    Message,
    OrderRequested,
    PositionReported,
    QuoteReported,
    Severity,
    SignalEmitted,
    Verdict,
)

_UNKNOWN_STATE = "the saved state was unreadable; entries begin at the next slice"


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Situation:
    """What the entries of one slice are decided on; the ledger grows with each request."""

    account: AccountReported
    state: ExecutorState
    contracts: Mapping[str, Contract]
    policy: Policy
    inputs: dict[str, str]
    is_known: bool

    @property
    def held(self) -> dict[str, Request]:
        """Requests that hold a slot as of the account."""
        return self.state.ledger.holding_as_of(self.account.execution_number)


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
    messages: list[Message] = []
    if signals[0].live and account.live:
        told, day = _day(signals[-1], account, state.day, policy)
        messages += told
        state = state.model_copy(update={"day": day})
    situation = _Situation(account, state, contracts, policy, inputs, is_known)
    for signal in signals:
        key = client_order_id(policy.book, signal.close_time, signal.symbol)
        if signal.verdict is Verdict.ALLOW and key not in situation.state.ledger.requests:
            message, situation = _decide(signal, key, situation)
            messages.append(message)
    ledger = situation.state.ledger.without_settled(account.execution_number, close_time)
    return messages, situation.state.model_copy(update={"ledger": ledger})


def _day(
    signal: SignalEmitted, account: AccountReported, before: Day | None, policy: Policy
) -> tuple[list[Message], Day]:
    """Return the day after this slice, and the announcement when its loss reaches the limit first."""
    mark = EquityMark(equity=account.equity, initial_equity=account.initial_equity)
    day = day_after(before, signal.close_time, mark, policy)
    limit = limits.day_loss(policy, loss_fraction(day))
    if day.loss_told or not limit.trips:
        return [], day
    event = EventReported(
        meta=signal.meta.effect(EventReported, LimitName.DAY_LOSS),
        service="executor",
        kind="limit",
        severity=Severity.CRITICAL,
        text=limit.text,
        details={"limit": limit.name, "baseline": str(day.baseline.equity), "equity": str(account.equity)},
    )
    return [event], day.model_copy(update={"loss_told": True})


def _decide(signal: SignalEmitted, key: str, situation: _Situation) -> tuple[Message, _Situation]:
    """Return a request with its slot and margin reserved, or the refusal."""
    size = _sized(signal, situation)
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
    request = _requested(signal, key, size, situation)
    return request, _with_reserved(request, signal, size, situation)


def _requested(signal: SignalEmitted, key: str, size: Sized, situation: _Situation) -> OrderRequested:
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


def _with_reserved(
    request: OrderRequested, signal: SignalEmitted, size: Sized, situation: _Situation
) -> _Situation:
    reserved = Request(
        symbol=request.symbol, close_time=signal.close_time, margin=size.margin, notional=size.notional
    )
    ledger = situation.state.ledger
    grown = ledger.model_copy(update={"requests": ledger.requests | {request.client_order_id: reserved}})
    return replace(situation, state=situation.state.model_copy(update={"ledger": grown}))


def _sized(signal: SignalEmitted, situation: _Situation) -> Sized | _Refusal:
    """Return the size of an entry that nothing stops, or what stops it first."""
    control = situation.state.control
    if not control.allows_entries:
        return _Refusal(control.state, f"{control.state} by {control.who}: {control.why}")
    if not situation.is_known:
        return _Refusal("STATE_UNKNOWN", _UNKNOWN_STATE)
    tripped = first_tripped(_limits(signal, situation))
    if tripped is not None:
        return _Refusal(tripped.name, tripped.text)
    contract, quote = situation.contracts.get(signal.symbol), situation.account.quotes.get(signal.symbol)
    if contract is None or quote is None:
        return _Refusal("CONTRACT_UNKNOWN", f"no terms of {signal.symbol} as this account entry knows them")
    lacking = _lacking(signal, contract)
    if lacking:
        return _Refusal("SIGNAL_INCOMPLETE", lacking)
    usd_conversion = _usd_conversion(situation)
    if usd_conversion is None:
        return _Refusal("CONVERSION_UNKNOWN", f"no rate from USD to {situation.account.currency}")
    size = size_position(
        contract,
        _funds(situation),
        price=quote.ask if signal.direction is Direction.LONG else quote.bid,
        stop_distance=signal.stop_distance or Decimal(0),
        risk_fraction=limits.number(signal.risk_fraction or 0.0),
        conversion=quote.conversion,
        usd_conversion=usd_conversion,
        policy=situation.policy.sizing,
    )
    return _Refusal(size.reason, size.detail) if isinstance(size, NotSized) else size


def _limits(signal: SignalEmitted, situation: _Situation) -> Iterator[Limit]:
    """Yield every limit, the widest reasons first; only the first that trips is told."""
    account, policy, day = situation.account, situation.policy, situation.state.day
    quote = account.quotes.get(signal.symbol)
    yield limits.stale_slice(live=signal.live and account.live)
    yield limits.day_loss(policy, loss_fraction(day) if day else None)
    yield limits.synthetic_bar(policy, synthetic=signal.synthetic, real_bars=signal.real_bars)
    yield limits.stale_quote(policy, quote.age_s if quote else None)
    yield limits.asset_lock(_holders(signal.symbol, situation))
    yield limits.open_positions(policy, _slots_taken(situation))
    yield limits.risk_per_trade(policy, signal.risk_fraction)
    if quote:  # without one the quote's age has tripped
        yield limits.spread(policy, quote.bid, quote.ask, signal.stop_distance)
    yield limits.notional(policy, _used_notional(situation), account.equity)
    yield limits.free_margin(_reserved_margin(situation), account.free_margin)


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


# --- what the account and the reserved slots take together ------------------------------------------


def _holders(symbol: str, situation: _Situation) -> int:
    positions = sum(position.symbol == symbol for position in situation.account.positions)
    return positions + sum(request.symbol == symbol for request in situation.held.values())


def _slots_taken(situation: _Situation) -> int:
    """Count positions of any owner, and reserved slots that have no position yet."""
    labels = {position.client_order_id for position in situation.account.positions}
    return len(situation.account.positions) + len(situation.held.keys() - labels)


def _used_notional(situation: _Situation) -> Decimal | None:
    """Return what positions and reserved slots are worth in account currency; None if one is not known."""
    parts = [_position_notional(position, situation.account) for position in situation.account.positions]
    return _total([*parts, *(request.notional for request in situation.held.values())])


def _position_notional(position: PositionReported, account: AccountReported) -> Decimal | None:
    quote = account.quotes.get(position.symbol)
    if quote is not None:
        return position.volume_units * quote.ask * quote.conversion
    # a foreign position in a symbol that we do not watch: its margin says how large it is
    return position.used_margin * account.leverage if position.used_margin > 0 else None


def _reserved_margin(situation: _Situation) -> Decimal | None:
    return _total([request.margin for request in situation.held.values()])


def _total(parts: Sequence[Decimal | None]) -> Decimal | None:
    known = [part for part in parts if part is not None]
    return sum(known, Decimal(0)) if len(known) == len(parts) else None


def _funds(situation: _Situation) -> Funds:
    account, unknown = situation.account, Decimal("NaN")
    used, reserved = _used_notional(situation), _reserved_margin(situation)
    return Funds(
        equity=account.equity,
        free_margin=account.free_margin,
        leverage=account.leverage,
        used_notional=unknown if used is None else used,
        reserved_margin=unknown if reserved is None else reserved,
    )


def _usd_conversion(situation: _Situation) -> Decimal | None:
    """Return account currency for one US dollar, in which commissions are stated."""
    if situation.account.currency == "USD":
        return Decimal(1)
    for symbol, contract in sorted(situation.contracts.items()):
        quote: QuoteReported | None = situation.account.quotes.get(symbol)
        if quote is not None and contract.quote_asset == "USD":
            return quote.conversion
        if quote is not None and contract.base_asset == "USD":
            return quote.ask * quote.conversion
    return None
