"""Every limit as one table: what is measured, against which bound, what it stops. The widest come first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from services.executor.days import around_roll, before_weekend
from services.executor.limits import Limit, LimitName, Measured, Rule, Stops, number
from services.executor.losses import in_money, measured
from services.executor.situation import Situation
from services.executor.state import Standing
from shared.messages import Severity

HOUR = timedelta(hours=1)

_Measure = Callable[[Situation], Measured | None]
_YES_OR_NO = Decimal(1)  # the bound of what is either so or not


# --- the whole book -------------------------------------------------------------------------------


def stale_slice(seen: Situation) -> Measured:
    """Bars that were fetched later are history: nobody can trade their close."""
    return Decimal(not seen.live), _YES_OR_NO


def late_slice(seen: Situation) -> Measured:
    """Seconds of venue time from the close to the account that the slice is decided on."""
    age = seen.account.meta.event_time - seen.signal.close_time
    return number(age.total_seconds()), seen.policy.slice_age_max_s


def clock_offset(seen: Situation) -> Measured:
    """A machine whose clock is not the venue's has other trading hours, and other ages of what it reads."""
    return abs(number(seen.account.clock_offset_ms)), seen.policy.clock_offset_max_ms


def loss(name: LimitName) -> _Measure:
    """Return the measure of one loss limit; none where the policy has no such limit."""

    def measure(seen: Situation) -> Measured | None:
        rule = seen.policy.loss_rule(name)
        return None if rule is None else measured(rule, seen.state.losses.get(name), seen.account)

    return measure


def losing_streak(seen: Situation) -> Measured:
    """Losses in a row, of all symbols; a pause that is over has ended the streak."""
    return Decimal(seen.state.streak.losses), Decimal(seen.policy.losing_streak_max)


def session(seen: Situation) -> Measured | None:
    """Outside of the hours in which entries are wanted."""
    if not seen.policy.sessions:
        return None
    at = seen.signal.close_time.astimezone(ZoneInfo(seen.policy.session_zone)).time()
    return Decimal(not any(window.holds(at) for window in seen.policy.sessions)), _YES_OR_NO


def rollover(seen: Situation) -> Measured:
    """Around the market's roll spreads are a multiple of what they are at other times."""
    before, after = seen.policy.rollover_before_min, seen.policy.rollover_after_min
    return Decimal(around_roll(seen.signal.close_time, before_min=before, after_min=after)), _YES_OR_NO


def weekend(seen: Situation) -> Measured | None:
    """A position opened just before the week ends stands over a gap that no stop limits."""
    minutes = seen.policy.weekend_before_min
    return (Decimal(before_weekend(seen.signal.close_time, minutes)), _YES_OR_NO) if minutes else None


def open_positions(seen: Situation) -> Measured:
    """Positions of any owner and reserved slots."""
    return Decimal(seen.slots_taken), Decimal(seen.policy.open_positions_max)


def orders_per_hour(seen: Situation) -> Measured:
    """Requests of the last hour: a model that trades at every bar is a defect, or pays the spread away."""
    since = seen.signal.close_time - HOUR
    recent = sum(close_time > since for close_time in seen.state.requested)
    return Decimal(recent), Decimal(seen.policy.orders_per_hour_max)


def notional(seen: Situation) -> Measured:
    """What all positions and reserved slots are worth, in times equity."""
    return _of_equity(seen, seen.used_notional), seen.policy.sizing.total_notional_max


def margin_use(seen: Situation) -> Measured:
    """Margin of positions and reserved slots, as a part of equity: near its whole the venue closes them."""
    reserved = seen.reserved_margin
    used = None if reserved is None else seen.account.used_margin + reserved
    return _of_equity(seen, used), seen.policy.margin_use_max


def free_margin(seen: Situation) -> Measured:
    """Reserved slots take from the free margin before their orders do."""
    return seen.reserved_margin, seen.account.free_margin


# --- one entry ------------------------------------------------------------------------------------


def synthetic_bar(seen: Situation) -> Measured:
    """A flat run shrinks the ATR and with it every stop: count the real bars that are missing."""
    missing = max(seen.policy.real_bars_min - seen.signal.real_bars, int(seen.signal.synthetic))
    return Decimal(missing), Decimal(1)


def stale_quote(seen: Situation) -> Measured:
    """An old quote is no price to size by; one that nobody has sent is as old as can be."""
    return None if seen.quote is None else number(seen.quote.age_s), seen.policy.quote_age_max_s


def asset_lock(seen: Situation) -> Measured:
    """At most one position a symbol, whoever owns it; a request that is not settled counts."""
    return Decimal(seen.holders), Decimal(1)


def risk_per_trade(seen: Situation) -> Measured:
    """The model may use the whole of the allowed risk, and no more."""
    fraction = seen.signal.risk_fraction
    return None if fraction is None else number(fraction), seen.policy.risk_fraction_max


def spread(seen: Situation) -> Measured:
    """A spread that is a large part of the stop leaves little room to be right."""
    quote, stop = seen.quote, seen.signal.stop_distance
    bound = seen.policy.spread_to_stop_max
    if quote is None or stop is None or stop <= 0 or not 0 < quote.bid <= quote.ask:
        return None, bound
    return (quote.ask - quote.bid) / stop, bound


def currency_exposure(seen: Situation) -> Measured | None:
    """What is held or owed of one of the entry's currencies already, in times equity, in its direction."""
    if seen.signal.symbol not in seen.contracts or seen.signal.direction.sign == 0:
        return None  # refused for that reason
    return _of_equity(seen, seen.currency_exposure), seen.policy.sizing.currency_exposure_max


def _of_equity(seen: Situation, amount: Decimal | None) -> Decimal | None:
    return amount / seen.account.equity if amount is not None and seen.account.equity > 0 else None


# --- the table ------------------------------------------------------------------------------------


def _book(
    name: LimitName, measure: _Measure, stops: Stops = Stops.ALL_ENTRIES, told: Severity | None = None
) -> Rule[Situation]:
    return Rule(name, stops, measure, of_book=True, told=told)


def _slice(
    name: LimitName, measure: _Measure, stops: Stops = Stops.ALL_ENTRIES, told: Severity | None = None
) -> Rule[Situation]:
    return Rule(name, stops, measure, of_book=True, of_slice=True, told=told)


RULES: tuple[Rule[Situation], ...] = (
    Rule(LimitName.STALE_SLICE, Stops.THIS_SLICE, stale_slice),
    _slice(LimitName.LATE_SLICE, late_slice, Stops.THIS_SLICE, Severity.WARNING),
    _slice(LimitName.CLOCK_OFFSET, clock_offset, told=Severity.ERROR),
    *(
        _slice(name, loss(name), stops, Severity.CRITICAL)
        for name, stops in (
            (LimitName.DAY_LOSS, Stops.ALL_ENTRIES_TODAY),
            (LimitName.DRAWDOWN, Stops.UNTIL_RESUMED),
            (LimitName.PRESET_DAY_LOSS, Stops.ALL_ENTRIES_TODAY),
            (LimitName.PRESET_DRAWDOWN, Stops.UNTIL_RESUMED),
        )
    ),
    _slice(LimitName.LOSING_STREAK, losing_streak, told=Severity.WARNING),
    _slice(LimitName.SESSION, session),
    _slice(LimitName.ROLLOVER, rollover),
    _slice(LimitName.WEEKEND, weekend),
    Rule(LimitName.SYNTHETIC_BAR, Stops.SYMBOL, synthetic_bar),
    Rule(LimitName.STALE_QUOTE, Stops.SYMBOL, stale_quote),
    Rule(LimitName.ASSET_LOCKED, Stops.SYMBOL, asset_lock),
    _book(LimitName.OPEN_POSITIONS, open_positions),
    _book(LimitName.ORDERS_PER_HOUR, orders_per_hour),
    Rule(LimitName.RISK_PER_TRADE, Stops.THIS_ENTRY, risk_per_trade, reaching_trips=False),
    Rule(LimitName.SPREAD, Stops.THIS_ENTRY, spread),
    _book(LimitName.NOTIONAL, notional),
    Rule(LimitName.CURRENCY_EXPOSURE, Stops.THIS_ENTRY, currency_exposure),
    _book(LimitName.MARGIN_USE, margin_use),
    _book(LimitName.FREE_MARGIN, free_margin),
)
_OF_BOOK = tuple(rule for rule in RULES if rule.of_book)


def first_tripped(seen: Situation) -> Limit | None:
    """Return the first limit that stops this entry."""
    for rule in RULES:
        limit = seen.measured.get(rule.name) or rule.limit(seen)
        if limit is not None and limit.trips:
            return limit
    return None


def of_book(seen: Situation) -> Iterator[tuple[Rule[Situation], Limit]]:
    """Yield the limits that are the same for every symbol of a slice, measured."""
    for rule in _OF_BOOK:
        limit = rule.limit(seen)
        if limit is not None:
            yield rule, limit


def standing(limit: Limit, seen: Situation) -> Standing:
    """Return how far a limit is from tripping."""
    memory = seen.state.losses.get(limit.name)
    rule = seen.policy.loss_rule(limit.name) if memory else None
    value, bound = limit.value, limit.bound
    return Standing(
        value=_finite(value) if limit.trips else value,
        bound=_finite(bound) if limit.trips else bound,
        trips=limit.trips,
        stops=limit.stops,
        money=in_money(rule, memory, seen.account) if rule and memory else None,
    )


def _finite(value: Decimal | None) -> Decimal | None:
    return value if value is not None and value.is_finite() else None
