"""Settings of the simulated venue: where it listens, what it plays, how its account begins."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from venue.credentials import ACCESS_TOKEN_LIFE_S, Environment
from venue.terms import AccountKind, MarginSum

ACCOUNTS: Mapping[str, tuple[Environment, AccountKind]] = {
    f"{environment}-{kind.lower()}": (environment, kind)
    for environment in Environment
    for kind in AccountKind
}


class VenueSettings(BaseSettings):
    """Read once in main.py, passed on as plain values."""

    model_config = SettingsConfigDict(
        env_prefix="VENUE_", frozen=True, env_file=".env", extra="ignore", env_ignore_empty=True
    )

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65_535)  # 0: a free one, kept over a restart
    json_port: int = Field(default=0, ge=0, le=65_535)
    live_port: int = Field(default=0, ge=0, le=65_535)
    live_json_port: int = Field(default=0, ge=0, le=65_535)
    rest_port: int = Field(default=0, ge=0, le=65_535)
    control_port: int = Field(default=0, ge=0, le=65_535)
    names: Annotated[tuple[str, ...], NoDecode] = ("localhost", "127.0.0.1", "::1")  # on the certificate
    state_dir: Path = Path("var/venue")

    data_dir: Path | None = None  # bars from files; without it, a synthetic market
    seed: int = Field(default=1, ge=0)
    market_start: AwareDatetime = datetime(2025, 1, 5, 22, tzinfo=UTC)  # of the synthetic one
    slices: int = Field(default=20_000, ge=2, le=2_000_000)  # of the synthetic one
    start: AwareDatetime | None = None  # when the venue's time begins; default: after `history_slices`
    history_slices: int = Field(default=1_000, ge=0)
    speed: float = Field(default=0.0, ge=0, le=100_000, allow_inf_nan=False)  # 0: stepped by the control door

    faults: Path | None = None  # a TOML file of what goes wrong on purpose

    applications: int = Field(default=1, ge=1, le=100)
    accounts: Annotated[tuple[str, ...], NoDecode] = Field(default=("demo-hedged",), min_length=1)
    token_life_s: int = Field(default=ACCESS_TOKEN_LIFE_S, ge=1)  # of access tokens
    requests_per_s: int = Field(default=50, ge=1, le=100_000)  # of real time, a connection
    history_requests_per_s: int = Field(default=5, ge=1, le=100_000)

    initial_balance: Decimal = Field(default=Decimal(10_000), gt=0, le=Decimal(10**9), decimal_places=2)
    leverage: int = Field(default=100, ge=1, le=1_000)
    deposit_asset: Literal["USD", "EUR", "GBP", "JPY", "CHF"] = "USD"
    margin_sum: MarginSum = MarginSum.SUM
    stop_out_percent: int = Field(default=50, ge=0, le=99)  # margin level at which positions are closed
    commission: bool = True
    swap_free: bool = False
    conversion_fee: Decimal = Field(default=Decimal(0), ge=0, le=Decimal("0.05"))  # of a gross result
    slippage_ticks_max: int = Field(default=0, ge=0, le=1_000)
    partial_fill_fraction: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)  # of the quotes
    latency_ms: int = Field(default=130, ge=0, le=60_000)  # from an order's arrival to the earliest fill

    @field_validator("accounts")
    @classmethod
    def _known(cls, accounts: tuple[str, ...]) -> tuple[str, ...]:
        for account in accounts:
            if account not in ACCOUNTS:
                raise ValueError(f"an account is one of {', '.join(ACCOUNTS)}, not {account}")
        return accounts

    @field_validator("names", "accounts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )
