"""Settings of inference."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings


class InferenceSettings(ServiceSettings):
    """Settings of inference: read once in main.py, passed on as plain values."""

    model_config = SettingsConfigDict(env_prefix="INFERENCE_")

    bundle_dir: Path = Path("bundles/default")
