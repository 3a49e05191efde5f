"""Settings of the executor."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, JsonValue, field_validator
from pydantic_settings import SettingsConfigDict

from services.executor.days import Roll, Window
from services.executor.limits import LimitName
from services.executor.losses import Kind, LossRule
from services.executor.policy import RISK_FRACTION_HARD_MAX, Policy
from services.executor.presets import PRESETS
from services.executor.sizing import SizingPolicy
from shared.errors import InputError
from shared.messages import OpenPosition
from shared.settings import ServiceSettings


class ExecutorSettings(ServiceSettings):
    """Settings of the executor: read once in main.py, passed on as a policy."""

    model_config = SettingsConfigDict(env_prefix="EXECUTOR_")

    # largest part of equity that one trade may lose at its stop; above it the signal is refused
    risk_fraction_max: Decimal = Field(default=Decimal("0.005"), gt=0, le=RISK_FRACTION_HARD_MAX)
    # positions of any owner and reserved slots together
    max_open_positions: int = Field(default=5, ge=1, le=100)
    # spread as a part of the stop distance; a stop of three spreads, the floor, passes
    spread_to_stop_max: Decimal = Field(default=Decimal("0.35"), gt=0, le=1)
    # a quote as old as this is no price to size by; venue time, at the slice
    quote_age_max_s: Decimal = Field(default=Decimal(10), gt=0, le=300)
    # from the close to the account that a slice is decided on; venue time
    slice_age_max_s: Decimal = Field(default=Decimal(20), gt=0, le=300)
    # the machine's clock against the venue's, either way
    clock_offset_max_ms: Decimal = Field(default=Decimal(2000), gt=0, le=60_000)
    # real bars that must stand since the last run of three or more synthetic ones
    real_bars_min: int = Field(default=14, ge=1, le=300)
    # floating loss since the roll, as a part of the equity at the roll; stops entries until the next one
    day_loss_fraction_max: Decimal = Field(default=Decimal("0.05"), gt=0, le=1)
    # floating loss from the highest equity, as a part of it; stops entries until an operator resumes
    drawdown_fraction_max: Decimal = Field(default=Decimal("0.10"), gt=0, le=1)
    # rules of an evaluation account, which hold beside the two above; empty: none
    preset: str = ""
    # what becomes of our positions when a loss limit is reached: they stay, or are closed
    on_loss_limit: Literal["hold", "flatten"] = "hold"
    # when the trading day rolls: local hour in this zone, daylight saving included
    day_roll_zone: str = "America/New_York"
    day_roll_hour: int = Field(default=17, ge=0, le=23)
    # losses in a row, of all symbols, that stop entries, and for how long after the last of them
    losing_streak_max: int = Field(default=5, ge=1, le=1000)
    losing_streak_cooldown_min: int = Field(default=60, ge=1, le=10_080)
    # requests within an hour, of all symbols
    orders_per_hour_max: int = Field(default=30, ge=1, le=1000)
    # hours in which entries are wanted, such as 07:00-20:00, separated by commas; empty: at any hour
    sessions: str = ""
    session_zone: str = "UTC"
    # no entries around 17:00 in New York, when spreads are wide, and before it on Friday
    rollover_before_min: int = Field(default=5, ge=0, le=240)
    rollover_after_min: int = Field(default=65, ge=0, le=240)
    weekend_before_min: int = Field(default=60, ge=0, le=1020)
    # what a flat or opposite signal does to a position; models trained with another policy are not traded
    open_position: OpenPosition = OpenPosition.HOLD
    # an order request expires unsent this long after the close of its slice; venue time
    valid_for_s: int = Field(default=20, ge=1, le=240)
    # value of one position, and of all positions and reservations, in times equity
    position_notional_max: Decimal = Field(default=Decimal(10), gt=0, le=500)
    total_notional_max: Decimal = Field(default=Decimal(20), gt=0, le=500)
    # what is held or owed of one currency, in times equity
    currency_exposure_max: Decimal = Field(default=Decimal(20), gt=0, le=500)
    # margin of positions and reservations, as a part of equity
    margin_use_max: Decimal = Field(default=Decimal("0.8"), gt=0, le=1)
    # part of the margin neither used nor reserved that one position may take
    free_margin_share_max: Decimal = Field(default=Decimal("0.5"), gt=0, le=1)

    @field_validator("sessions")
    @classmethod
    def _known_hours(cls, texts: str) -> str:
        try:
            _windows(texts)
        except InputError as error:
            raise ValueError(str(error)) from error
        return texts

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name and name not in PRESETS:
            raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
        return name

    @field_validator("day_roll_zone", "session_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"no time zone {name!r}; a name such as America/New_York is meant") from error
        return name

    def deciding(self) -> dict[str, JsonValue]:
        """Return what decisions rest on, by name, as JSON has it; not what all services share."""
        return self.model_dump(mode="json", exclude=set(ServiceSettings.model_fields))

    def policy(self) -> Policy:
        """Return the plain values that decisions rest on."""
        return Policy(
            book=self.book,
            risk_fraction_max=self.risk_fraction_max,
            open_positions_max=self.max_open_positions,
            spread_to_stop_max=self.spread_to_stop_max,
            quote_age_max_s=self.quote_age_max_s,
            slice_age_max_s=self.slice_age_max_s,
            clock_offset_max_ms=self.clock_offset_max_ms,
            real_bars_min=self.real_bars_min,
            losses=self._losses(),
            flatten_on_loss=self.on_loss_limit == "flatten",
            losing_streak_max=self.losing_streak_max,
            losing_streak_cooldown_min=self.losing_streak_cooldown_min,
            orders_per_hour_max=self.orders_per_hour_max,
            sessions=_windows(self.sessions),
            session_zone=self.session_zone,
            rollover_before_min=self.rollover_before_min,
            rollover_after_min=self.rollover_after_min,
            weekend_before_min=self.weekend_before_min,
            margin_use_max=self.margin_use_max,
            open_position=self.open_position,
            valid_for_s=self.valid_for_s,
            sizing=SizingPolicy(
                position_notional_max=self.position_notional_max,
                total_notional_max=self.total_notional_max,
                free_margin_share_max=self.free_margin_share_max,
                currency_exposure_max=self.currency_exposure_max,
            ),
        )

    def _losses(self) -> tuple[LossRule, ...]:
        roll = Roll(self.day_roll_zone, self.day_roll_hour)
        return (
            LossRule(LimitName.DAY_LOSS, Kind.DAY, self.day_loss_fraction_max, roll=roll),
            LossRule(LimitName.DRAWDOWN, Kind.TRAILING, self.drawdown_fraction_max, roll=roll),
            *(PRESETS[self.preset].losses if self.preset else ()),
        )


def _windows(texts: str) -> tuple[Window, ...]:
    return tuple(Window.parse(text) for text in texts.split(",") if text.strip())
