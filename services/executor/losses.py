"""Loss limits: of the day and in total, static or trailing, on balance or on equity.

All of them are one rule with other words: a level that loss is counted from, what is measured against it,
and the part of it that may be lost. Levels are kept as gains over the initial equity, which deposits and
withdrawals move: money paid in or out is neither profit nor loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from services.executor.days import MARKET_ROLL, Roll
from services.executor.limits import LimitName, Measured
from shared.errors import InputError
from shared.messages import AccountReported


class Basis(StrEnum):
    """Which money is meant."""

    EQUITY = "EQUITY"  # open positions count at their closing prices
    BALANCE = "BALANCE"  # closed trades alone
    HIGHER = "HIGHER"  # the larger of both


class Kind(StrEnum):
    """What loss is counted from."""

    DAY = "DAY"  # the level at the roll, or the last one known before it
    STATIC = "STATIC"  # the initial equity
    TRAILING = "TRAILING"  # the highest level of any slice
    TRAILING_DAILY = "TRAILING_DAILY"  # the highest level at any roll


class Of(StrEnum):
    """What the allowed fraction is a fraction of."""

    LEVEL = "LEVEL"  # what loss is counted from
    INITIAL = "INITIAL"  # the initial equity


@dataclass(frozen=True, slots=True)
class LossRule:
    """One loss limit in words."""

    name: LimitName
    kind: Kind
    fraction_max: Decimal
    of: Of = Of.LEVEL
    level: Basis = Basis.EQUITY  # of what the level is made
    measured: Basis = Basis.EQUITY  # what is held against it
    locks_at_initial: bool = False  # a trailing limit that does not rise above the initial equity
    roll: Roll = MARKET_ROLL

    def __post_init__(self) -> None:
        if not self.fraction_max.is_finite() or not 0 < self.fraction_max <= 1:
            raise InputError(f"{self.name} {self.fraction_max}: above 0, at most 1")


class LossMemory(BaseModel):
    """What one loss limit remembers; saved with each commit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    date: date
    level_gain: Decimal  # of the level that loss is counted from, over the initial equity
    latest_gain: Decimal  # of the same money at the last slice
    reached: bool = False  # latched: until the day rolls, or until an operator resumes


class LossStanding(BaseModel):
    """Where a loss limit stands in money."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    level: Decimal  # what loss is counted from
    trips_at: Decimal  # the equity or balance at which the limit trips


def money(account: AccountReported, basis: Basis) -> Decimal:
    """Return the account's money of a kind."""
    match basis:
        case Basis.EQUITY:
            return account.equity
        case Basis.BALANCE:
            return account.balance
        case Basis.HIGHER:
            return max(account.equity, account.balance)


def memories_after(
    rules: tuple[LossRule, ...],
    memories: Mapping[LimitName, LossMemory],
    at: datetime,
    account: AccountReported,
) -> dict[LimitName, LossMemory]:
    """Return what the rules remember after a live slice that closed at `at`; the same of unknown money."""
    known = (account.equity, account.balance, account.initial_equity, account.peak_equity)
    if not all(each.is_finite() for each in known):
        return dict(memories)
    return {rule.name: _memory_after(rule, memories.get(rule.name), at, account) for rule in rules}


def _memory_after(
    rule: LossRule, memory: LossMemory | None, at: datetime, account: AccountReported
) -> LossMemory:
    gain = money(account, rule.level) - account.initial_equity
    today = rule.roll.date(at)
    if memory is None:
        level = _first_level(rule, gain, account)
        memory = LossMemory(date=today, level_gain=level, latest_gain=gain)
    is_new_day = memory.date != today
    at_roll = gain if is_new_day and rule.roll.is_at(at) else memory.latest_gain
    level = memory.level_gain
    match rule.kind:
        case Kind.DAY:
            level = at_roll if is_new_day else level
        case Kind.TRAILING:
            level = max(level, gain)
        case Kind.TRAILING_DAILY:
            level = max(level, at_roll) if is_new_day else level
    if rule.locks_at_initial:
        level = min(level, _allowed(rule, level, account))
    after = LossMemory(date=today, level_gain=level, latest_gain=gain)
    value, bound = measured(rule, after, account)
    latched = memory.reached and not (rule.kind is Kind.DAY and is_new_day)
    reached = latched or value is None or bound is None or value >= bound
    return after.model_copy(update={"reached": True}) if reached else after


def measured(rule: LossRule, memory: LossMemory | None, account: AccountReported) -> Measured:
    """Return the loss as a fraction, and the largest one allowed; a latched limit stays at its bound."""
    if memory is None:
        return None, rule.fraction_max
    level = account.initial_equity + memory.level_gain
    base = level if rule.of is Of.LEVEL else account.initial_equity
    if base <= 0:
        return None, rule.fraction_max
    loss = (level - money(account, rule.measured)) / base
    return max(loss, rule.fraction_max) if memory.reached else loss, rule.fraction_max


def in_money(rule: LossRule, memory: LossMemory, account: AccountReported) -> LossStanding:
    """Return the level that loss is counted from, and the money at which the limit trips."""
    level = account.initial_equity + memory.level_gain
    return LossStanding(level=level, trips_at=level - _allowed(rule, memory.level_gain, account))


def resumed(
    memories: Mapping[LimitName, LossMemory], rules: tuple[LossRule, ...]
) -> dict[LimitName, LossMemory]:
    """Return the memories after an operator has resumed: what lasts for the day goes on."""
    lasting = {rule.name for rule in rules if rule.kind is Kind.DAY}
    return {
        name: memory if name in lasting else memory.model_copy(update={"reached": False})
        for name, memory in memories.items()
    }


def _first_level(rule: LossRule, gain: Decimal, account: AccountReported) -> Decimal:
    """Return the level of a book whose past is not remembered: the account's peak is known all the same."""
    match rule.kind:
        case Kind.DAY:
            return gain
        case Kind.TRAILING if rule.level is Basis.EQUITY:
            return max(gain, account.peak_equity - account.initial_equity)
        case _:
            return Decimal(0)


def _allowed(rule: LossRule, level_gain: Decimal, account: AccountReported) -> Decimal:
    """Return the money that may be lost."""
    base = account.initial_equity + (level_gain if rule.of is Of.LEVEL else 0)
    return rule.fraction_max * base
