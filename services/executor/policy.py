"""What a book may risk: plain values, the same in training, replay and live."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from services.executor.days import Window
from services.executor.limits import LimitName
from services.executor.losses import Kind, LossRule
from services.executor.sizing import SizingPolicy
from shared.errors import InputError
from shared.messages import OpenPosition

RISK_FRACTION_HARD_MAX = Decimal("0.02")  # no setting goes above it

OWN_LOSSES = (
    LossRule(LimitName.DAY_LOSS, Kind.DAY, Decimal("0.05")),
    LossRule(LimitName.DRAWDOWN, Kind.TRAILING, Decimal("0.10")),
)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a book may risk. Immutable."""

    book: str
    risk_fraction_max: Decimal = Decimal("0.005")
    open_positions_max: int = 5
    spread_to_stop_max: Decimal = Decimal("0.35")  # a stop of three spreads, the floor, passes
    quote_age_max_s: Decimal = Decimal(10)
    slice_age_max_s: Decimal = Decimal(20)
    clock_offset_max_ms: Decimal = Decimal(2000)
    real_bars_min: int = 14
    losses: tuple[LossRule, ...] = OWN_LOSSES
    flatten_on_loss: bool = False  # close ours and pause when a loss limit is reached
    losing_streak_max: int = 5
    losing_streak_cooldown_min: int = 60
    orders_per_hour_max: int = 30
    sessions: tuple[Window, ...] = ()  # none: at any hour
    session_zone: str = "UTC"
    rollover_before_min: int = 5
    rollover_after_min: int = 65
    weekend_before_min: int = 60
    margin_use_max: Decimal = Decimal("0.8")  # of equity
    open_position: OpenPosition = OpenPosition.HOLD
    valid_for_s: int = 20
    sizing: SizingPolicy = field(default_factory=SizingPolicy)

    def __post_init__(self) -> None:
        risk = self.risk_fraction_max
        if not risk.is_finite() or not 0 < risk <= RISK_FRACTION_HARD_MAX:
            raise InputError(f"risk_fraction_max {risk}: above 0, at most {RISK_FRACTION_HARD_MAX}")

    def loss_rule(self, name: LimitName) -> LossRule | None:
        """Return the loss limit of that name; None: there is none."""
        for rule in self.losses:
            if rule.name is name:
                return rule
        return None
