"""Settings of the feature service."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.features.handlers import SLICES_MIN
from shared.settings import ServiceSettings


class FeaturesSettings(ServiceSettings):
    """Settings of the feature service: read once in main.py, passed on as plain values."""

    model_config = SettingsConfigDict(env_prefix="FEATURES_")

    # fewer is not to be had: until then the recursions remember where the history began
    slices_min: int = Field(default=SLICES_MIN, ge=SLICES_MIN, le=100_000)
