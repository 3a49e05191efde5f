"""What every service reads from the environment; each service adds its own, under its own prefix."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import InputError

DEFAULT_SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "USDCHF", "XAUUSD")

EXIT_BAD_INPUT = 2

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class ServiceSettings(BaseSettings):
    """The settings that all services share. Read once in main.py, passed on as plain values."""

    # `.env` serves all services, so unknown names in it cannot be forbidden here
    model_config = SettingsConfigDict(
        frozen=True, env_file=".env", extra="ignore", populate_by_name=True, env_ignore_empty=True
    )

    book: str = Field(default="main", pattern=r"^[a-z0-9-]{1,12}$", validation_alias="BOOK")
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0", pattern=r"^(redis|rediss|unix)://", validation_alias="REDIS_URL"
    )
    symbols: Annotated[tuple[str, ...], NoDecode] = Field(
        default=DEFAULT_SYMBOLS, min_length=1, validation_alias="SYMBOLS"
    )
    lease_ttl_s: float = Field(default=2.0, ge=0.5, le=60, validation_alias="LEASE_TTL_S")
    shutdown_grace_s: float = Field(default=5.0, gt=0, le=60, validation_alias="SHUTDOWN_GRACE_S")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", validation_alias="LOG_LEVEL"
    )
    log_format: Literal["console", "json"] = Field(default="console", validation_alias="LOG_FORMAT")
    log_dir: Path | None = Field(default=None, validation_alias="LOG_DIR")

    @field_validator("symbols", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )


def load(settings: type[SettingsT]) -> SettingsT:
    """Read settings from the environment and `.env`.

    Raises:
        InputError: a setting is missing or wrong; names each variable, without its value.
    """
    try:
        return settings()
    except ValidationError as error:
        prefix = str(settings.model_config.get("env_prefix", "")).upper()
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            place = str(problem["loc"][0]) if problem["loc"] else ""
            aliased = place.isupper()
            name = place if aliased else f"{prefix}{place}".upper()
            lines.append(
                f"{name}: {problem['msg'].removeprefix('Value error, ')}"
                if place
                else problem["msg"].removeprefix("Value error, ")
            )
        raise InputError("settings: " + "; ".join(lines)) from None


def exit_with(error: InputError) -> NoReturn:
    """Say what is wrong in one sentence and leave with the exit status of bad input."""
    sys.stderr.write(f"{error}\n")
    raise SystemExit(EXIT_BAD_INPUT)
