"""Settings of the notifier."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class NotifierSettings(ServiceSettings):
    """Settings of the notifier: read once in main.py, passed on as plain values."""

    model_config = SettingsConfigDict(env_prefix="NOTIFIER_")

    discord_webhook_url: SecretStr | None = Field(default=None, validation_alias="DISCORD_WEBHOOK_URL")
    discord_thread_name: str = Field(default="", max_length=100, validation_alias="DISCORD_THREAD_NAME")
    queue_max: int = Field(default=1000, ge=10, le=100_000)  # cards that may wait
    drain_grace_s: float = Field(default=3.0, ge=0, le=30)  # for the last posts at a stop
    tries_max: int = Field(default=5, ge=1, le=20)  # of one post
    timeout_s: float = Field(default=10.0, gt=0, le=60)  # of one try
    retry_after_max_s: float = Field(default=300.0, gt=0, le=3600)  # the longest wait Discord can ask for
    alerts_dir: Path | None = None  # of alerts.jsonl; unset: where the log is

    @field_validator("discord_webhook_url")
    @classmethod
    def _private(cls, value: SecretStr | None) -> SecretStr | None:
        """Refuse an address that would carry the secret in the clear."""
        if value is None:
            return None
        try:
            parts = urlsplit(value.get_secret_value())
            host = parts.hostname
        except ValueError:
            raise ValueError("is not a web address; copy it from the channel's settings") from None
        if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)):
            raise ValueError("must begin with https://")
        return value
