"""Settings of the executor."""

from __future__ import annotations

from decimal import Decimal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from services.executor.limits import RISK_FRACTION_HARD_MAX, Policy
from services.executor.sizing import SizingPolicy
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
    # real bars that must stand since the last run of three or more synthetic ones
    real_bars_min: int = Field(default=14, ge=1, le=300)
    # floating loss since the roll, as a part of the equity at the roll; stops entries until the next one
    day_loss_fraction_max: Decimal = Field(default=Decimal("0.05"), gt=0, le=1)
    # when the trading day rolls: local hour in this zone, daylight saving included
    day_roll_zone: str = "America/New_York"
    day_roll_hour: int = Field(default=17, ge=0, le=23)
    # an order request expires unsent this long after the close of its slice; venue time
    valid_for_s: int = Field(default=20, ge=1, le=240)
    # value of one position, and of all positions and reservations, in times equity
    position_notional_max: Decimal = Field(default=Decimal(10), gt=0, le=500)
    total_notional_max: Decimal = Field(default=Decimal(20), gt=0, le=500)
    # part of the margin neither used nor reserved that one position may take
    free_margin_share_max: Decimal = Field(default=Decimal("0.5"), gt=0, le=1)

    @field_validator("day_roll_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"no time zone {name!r}; a name such as America/New_York is meant") from error
        return name

    def policy(self) -> Policy:
        """Return the plain values that decisions rest on."""
        return Policy(
            book=self.book,
            risk_fraction_max=self.risk_fraction_max,
            open_positions_max=self.max_open_positions,
            spread_to_stop_max=self.spread_to_stop_max,
            quote_age_max_s=self.quote_age_max_s,
            real_bars_min=self.real_bars_min,
            day_loss_fraction_max=self.day_loss_fraction_max,
            day_roll_zone=self.day_roll_zone,
            day_roll_hour=self.day_roll_hour,
            valid_for_s=self.valid_for_s,
            sizing=SizingPolicy(
                position_notional_max=self.position_notional_max,
                total_notional_max=self.total_notional_max,
                free_margin_share_max=self.free_margin_share_max,
            ),
        )
