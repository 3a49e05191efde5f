"""The size of a trade: the worked values, the caps, and what holds for every input."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.sizing import CENT, GRAIN, Cap, Funds, NotSized, Sized, SizingPolicy, size_position
from shared.contracts import CommissionKind, Contract
from venue.book import CONTRACTS

D = Decimal
FREE = {symbol: c.model_copy(update={"commission_rate": D(0)}) for symbol, c in CONTRACTS.items()}
RICH = Funds(equity=D(10_000), free_margin=D(10_000), leverage=D(100))
ONE_DOLLAR = D(1)


def a_size(contract: Contract = FREE["EURUSD"], funds: Funds = RICH, **changes: Any) -> Sized | NotSized:
    asked = {
        "price": D("1.10000"),
        "stop_distance": D("0.00100"),
        "risk_fraction": D("0.005"),
        "conversion": ONE_DOLLAR,
    }
    return size_position(contract, funds, **(asked | changes))


@pytest.mark.parametrize(
    ("symbol", "price", "stop", "conversion", "units"),
    [
        ("EURUSD", "1.10000", "0.00100", D(1), 50_000),
        ("GBPUSD", "1.27000", "0.00100", D(1), 50_000),
        ("USDJPY", "150.000", "0.100", 1 / D("150.000"), 75_000),
        ("USDCHF", "0.88000", "0.00100", 1 / D("0.88000"), 44_000),
        ("XAUUSD", "2900.00", "5.00", D(1), 10),
    ],
)
def test_worked_sizes_come_out_to_the_unit(
    symbol: str, price: str, stop: str, conversion: Decimal, units: int
) -> None:
    """Worked by hand at 10,000 USD, half a percent of risk, no commission, 1:100."""
    size = a_size(FREE[symbol], price=D(price), stop_distance=D(stop), conversion=conversion)
    assert isinstance(size, Sized)
    assert size.volume_units == units
    assert size.bound_by is Cap.RISK


def test_commission_of_both_sides_is_part_of_the_risk() -> None:
    """50 / (0.001 + 2 * 2.5/100,000) = 47,619: the loss at the stop includes what the venue charges."""
    size = a_size(CONTRACTS["EURUSD"])
    assert isinstance(size, Sized)
    assert size.volume_units == 47_000
    assert size.risk_amount == D("49.35")


def test_commission_of_an_account_in_euros_is_converted_from_dollars() -> None:
    """The venue states commissions in dollars: 50 / (0.001 * 0.9 + 2 * 0.000025 * 0.9) = 52,910."""
    size = a_size(CONTRACTS["EURUSD"], conversion=D("0.9"), usd_conversion=D("0.9"))
    assert isinstance(size, Sized)
    assert size.volume_units == 52_000


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        (CommissionKind.PERCENTAGE_OF_VALUE, "0.05"),
        (CommissionKind.USD_PER_MILLION_USD, "500"),
        (CommissionKind.QUOTE_CCY_PER_LOT, "50"),
    ],
)
def test_every_kind_of_commission_shrinks_the_size(kind: CommissionKind, rate: str) -> None:
    """A kind that is forgotten would let the loss exceed the budget."""
    contract = FREE["EURUSD"].model_copy(update={"commission_kind": kind, "commission_rate": D(rate)})
    size = a_size(contract)
    assert isinstance(size, Sized)
    assert size.volume_units < 50_000
    assert size.risk_amount <= 50


@pytest.mark.parametrize(
    ("funds", "stop", "contract", "units", "cap"),
    [
        (RICH, "0.00040", FREE["EURUSD"], 90_000, Cap.POSITION_NOTIONAL),
        (
            Funds(D(10_000), D(10_000), D(100), used_notional=D(189_000)),
            "0.00100", FREE["EURUSD"], 10_000, Cap.TOTAL_NOTIONAL,
        ),
        (
            Funds(D(10_000), D(1_000), D(100), reserved_margin=D(560)),
            "0.00100", FREE["EURUSD"], 20_000, Cap.FREE_MARGIN,
        ),
        (
            RICH, "0.00100", FREE["EURUSD"].model_copy(update={"max_volume_units": D(30_000)}),
            30_000, Cap.VENUE_MAXIMUM,
        ),
    ],
)  # fmt: skip
def test_smallest_cap_sets_the_size_and_is_named(
    funds: Funds, stop: str, contract: Contract, units: int, cap: Cap
) -> None:
    """Whoever reads the request sees why it is no larger; reaching a cap exactly is allowed."""
    size = a_size(contract, funds, stop_distance=D(stop))
    assert isinstance(size, Sized)
    assert (size.volume_units, size.bound_by) == (D(units), cap)


def test_below_the_minimum_there_is_no_trade() -> None:
    """The minimum is never forced: it would risk more than the budget."""
    size = a_size(funds=Funds(D(10_000), D(10_000), D(100)), risk_fraction=D("0.00009"))
    assert isinstance(size, NotSized)
    assert size.reason == "BELOW_MIN_VOLUME"


def test_the_minimum_itself_is_traded() -> None:
    """A budget that pays for the minimum to the cent is enough."""
    size = a_size(risk_fraction=D("0.0001"))
    assert isinstance(size, Sized)
    assert size.volume_units == 1_000


@pytest.mark.parametrize("name", ["price", "stop_distance", "risk_fraction", "conversion", "usd_conversion"])
@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity"])
def test_what_is_not_a_number_has_no_size(name: str, value: str) -> None:
    """An unknown input blocks."""
    changed: dict[str, Any] = {name: D(value)}
    size = a_size(**changed)
    assert isinstance(size, NotSized)
    assert size.reason == "SIZE_UNKNOWN"


@pytest.mark.parametrize(
    "field", ["equity", "free_margin", "leverage", "used_notional", "reserved_margin", "currency_exposure"]
)
def test_unknown_funds_have_no_size(field: str) -> None:
    """An account that cannot be read is not one with money in it."""
    values = {"equity": D(1), "free_margin": D(1), "leverage": D(1)} | {field: D("NaN")}
    size = a_size(funds=Funds(**values))
    assert isinstance(size, NotSized)
    assert size.reason == "SIZE_UNKNOWN"


@pytest.mark.parametrize("name", ["price", "stop_distance", "conversion"])
def test_zero_distance_or_price_has_no_size(name: str) -> None:
    """A stop of zero would make the size unbounded."""
    changed: dict[str, Any] = {name: D(0)}
    assert isinstance(a_size(**changed), NotSized)


def money(low: int, high: int) -> st.SearchStrategy[Decimal]:
    return st.decimals(low, high, places=2)


FUNDS = st.builds(
    Funds,
    equity=money(0, 1_000_000),
    free_margin=money(-1_000, 1_000_000),
    leverage=st.sampled_from([D(1), D(30), D(100), D(500)]),
    used_notional=money(0, 10_000_000),
    reserved_margin=money(0, 100_000),
    currency_exposure=money(-10_000_000, 10_000_000),
)
TRADES = st.fixed_dictionaries(
    {
        "price": st.decimals("0.5", "3000", places=3),
        "stop_distance": st.decimals("0.001", "20", places=3),
        "risk_fraction": st.decimals("0.0001", "0.02", places=4),
        "conversion": st.decimals("0.005", "1.5", places=5),
        "usd_conversion": st.decimals("0.5", "1.5", places=3),
    }
)
ANY_CONTRACT = st.sampled_from(list(CONTRACTS.values()))


@given(contract=ANY_CONTRACT, funds=FUNDS, trade=TRADES)
def test_no_size_is_above_its_budget_or_a_cap(
    contract: Contract, funds: Funds, trade: dict[str, Any]
) -> None:
    """This is what stands between a wrong model and a ruined account."""
    size = size_position(contract, funds, **trade)
    if isinstance(size, NotSized):
        assert size.reason == "BELOW_MIN_VOLUME"
        return
    policy, room = SizingPolicy(), 1 + 2 * GRAIN
    assert contract.min_volume_units <= size.volume_units <= contract.max_volume_units
    assert size.volume_units % contract.step_volume_units == 0
    assert size.risk_amount <= funds.equity * trade["risk_fraction"] * room
    assert size.notional <= policy.position_notional_max * funds.equity * room
    assert size.notional <= (policy.total_notional_max * funds.equity - funds.used_notional) * room
    spare_currency = policy.currency_exposure_max * funds.equity - funds.currency_exposure
    assert size.notional <= spare_currency * room
    spare_margin = policy.free_margin_share_max * (funds.free_margin - funds.reserved_margin)
    assert size.margin - CENT < spare_margin * room  # it is rounded up to the cent


@given(contract=ANY_CONTRACT, funds=FUNDS, trade=TRADES, more=money(0, 1_000_000))
def test_more_equity_never_makes_a_trade_smaller(
    contract: Contract, funds: Funds, trade: dict[str, Any], more: Decimal
) -> None:
    """A size that fell as equity rises would betray a cap computed the wrong way round."""
    richer = Funds(
        funds.equity + more, funds.free_margin, funds.leverage, funds.used_notional, funds.reserved_margin
    )
    before, after = (size_position(contract, each, **trade) for each in (funds, richer))
    units = [each.volume_units if isinstance(each, Sized) else D(0) for each in (before, after)]
    assert units[0] <= units[1]


@given(contract=ANY_CONTRACT, funds=FUNDS, trade=TRADES)
def test_one_more_step_would_break_what_bound_it(
    contract: Contract, funds: Funds, trade: dict[str, Any]
) -> None:
    """Rounding down loses less than one step: a needlessly small size is a defect too."""
    size = size_position(contract, funds, **trade)
    if isinstance(size, NotSized) or size.bound_by is not Cap.RISK:
        return
    larger = size.risk_amount / size.volume_units * (size.volume_units + contract.step_volume_units)
    assert larger > funds.equity * trade["risk_fraction"]
