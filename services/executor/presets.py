"""The rules of evaluation accounts, by name: a daily loss and a total drawdown that end the account.

They hold beside the book's own limits, and whichever is reached first stops. Figures are those that the firms
published when this was written, each with its page; compare them with your own contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from services.executor.days import Roll
from services.executor.limits import LimitName
from services.executor.losses import Basis, Kind, LossRule, Of

_PRAGUE_MIDNIGHT = Roll("Europe/Prague", 0)
_NEW_YORK_CLOSE = Roll("America/New_York", 17)


@dataclass(frozen=True, slots=True)
class Preset:
    """One account's rules, and where they are published."""

    source: str
    losses: tuple[LossRule, ...]


PRESETS: dict[str, Preset] = {
    "ftmo-2-step": Preset(
        source="https://academy.ftmo.com/lesson/maximum-daily-loss and https://ftmo.com/en/trading-objectives",
        losses=(
            LossRule(
                LimitName.PRESET_DAY_LOSS, Kind.DAY, Decimal("0.05"),
                of=Of.INITIAL, level=Basis.BALANCE, roll=_PRAGUE_MIDNIGHT,
            ),
            LossRule(LimitName.PRESET_DRAWDOWN, Kind.STATIC, Decimal("0.10"), of=Of.INITIAL),
        ),
    ),
    "ftmo-1-step": Preset(
        source="https://ftmo.com/au/?p=1671 (total) and https://propxo.com/articles/prop-firm-drawdown-rules-2026",
        losses=(
            LossRule(
                LimitName.PRESET_DAY_LOSS, Kind.DAY, Decimal("0.03"),
                of=Of.INITIAL, level=Basis.BALANCE, roll=_PRAGUE_MIDNIGHT,
            ),
            LossRule(
                LimitName.PRESET_DRAWDOWN, Kind.TRAILING_DAILY, Decimal("0.10"),
                of=Of.INITIAL, level=Basis.BALANCE, roll=_PRAGUE_MIDNIGHT,
            ),
        ),
    ),
    "the5ers-high-stakes": Preset(
        source="https://help.the5ers.com/what-is-the-maximum-loss-and-the-maximum-daily-loss-in-the-high-stakes-program",
        losses=(
            LossRule(
                LimitName.PRESET_DAY_LOSS, Kind.DAY, Decimal("0.05"), level=Basis.HIGHER, roll=_NEW_YORK_CLOSE
            ),
            LossRule(LimitName.PRESET_DRAWDOWN, Kind.STATIC, Decimal("0.10"), of=Of.INITIAL),
        ),
    ),
    "trailing-equity": Preset(
        source="assumed: the strictest kind that is offered, floating profit raises the limit at once",
        losses=(
            LossRule(LimitName.PRESET_DAY_LOSS, Kind.DAY, Decimal("0.04"), level=Basis.EQUITY),
            LossRule(
                LimitName.PRESET_DRAWDOWN, Kind.TRAILING, Decimal("0.06"),
                of=Of.INITIAL, level=Basis.EQUITY, locks_at_initial=True,
            ),
        ),
    ),
    "trailing-balance": Preset(
        source="assumed: a limit that follows the balance of closed trades and stops at the initial equity",
        losses=(
            LossRule(
                LimitName.PRESET_DAY_LOSS, Kind.DAY, Decimal("0.04"),
                level=Basis.BALANCE, measured=Basis.BALANCE,
            ),
            LossRule(
                LimitName.PRESET_DRAWDOWN, Kind.TRAILING, Decimal("0.06"),
                of=Of.INITIAL, level=Basis.BALANCE, measured=Basis.BALANCE, locks_at_initial=True,
            ),
        ),
    ),
}  # fmt: skip
