"""Settings of the gateway: which venue, whose account, how long to wait."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings

_CREDENTIALS = (
    "ct_client_id",
    "ct_client_secret",
    "ct_access_token",
    "ct_refresh_token",
    "ct_account_id",
)


class GatewaySettings(ServiceSettings):
    """Read once in main.py. CT_* name the venue; a host type other than sim needs all credentials."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    ct_host_type: Literal["sim", "demo", "live"] = Field(default="sim", validation_alias="CT_HOST_TYPE")
    # plain frames on a TLS connection, or WebSocket, for networks that let nothing else out
    ct_transport: Literal["tcp", "wss"] = Field(default="tcp", validation_alias="CT_TRANSPORT")
    ct_client_id: str | None = Field(default=None, validation_alias="CT_CLIENT_ID")
    ct_client_secret: SecretStr | None = Field(default=None, validation_alias="CT_CLIENT_SECRET")
    ct_access_token: SecretStr | None = Field(default=None, validation_alias="CT_ACCESS_TOKEN")
    ct_refresh_token: SecretStr | None = Field(default=None, validation_alias="CT_REFRESH_TOKEN")
    ct_account_id: int | None = Field(default=None, validation_alias="CT_ACCOUNT_ID")
    # where the simulated venue wrote what its clients need: the first line that `tradeguard venue` prints
    sim_venue_file: Path = Field(default=Path("var/venue/ready.json"), validation_alias="SIM_VENUE_FILE")

    # the token pair of the last refresh; it goes before the environment's until that is changed
    token_dir: Path = Path("var/gateway/tokens")
    journal: Path = Path("var/gateway/journal.db")
    halt_file: Path = Path("var/HALT")  # while this file exists no order is sent; works without Redis
    warmup_slices: int = Field(default=300, ge=300, le=5000)
    # how fast the venue's time runs: 1 real, 60 an hour a minute, 0 it moves only with its own stamps
    venue_speed: float = Field(default=1.0, ge=0, le=10_000)
    bar_close_ms: int = Field(default=150, ge=0, le=5000)  # after the close a silent bar counts as closed
    slice_deadline_ms: int = Field(default=300, ge=0, le=10_000)  # then a missing bar is synthetic
    feed_quiet_s: float = Field(default=60.0, gt=0, le=3600)  # no quote of an open market: act
    protection_s: float = Field(default=1.0, gt=0, le=2)  # without a stop for this long: set it ourselves
    order_answer_s: float = Field(default=2.0, gt=0, le=30)  # no answer to an order: its outcome is unknown
    reconcile_s: float = Field(default=30.0, gt=0, le=3600)  # how often the venue's books are compared
    absent_after_s: float = Field(default=10.0, ge=10)  # twice not found, this long apart: never arrived
    # of each stream, before its newest entry and in its own time; what is unread stays longer
    keep_days: int = Field(default=30, ge=2, le=36_500)
    reconnect_first_s: float = Field(default=5.0, gt=0, le=60)  # doubles with every try
    reconnect_tries: int = Field(default=5, ge=1, le=100)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [name.upper() for name in _CREDENTIALS if getattr(self, name) is None]
        if self.ct_host_type != "sim" and missing:
            raise ValueError(
                f"CT_HOST_TYPE={self.ct_host_type} needs {', '.join(missing)} too: set them in .env"
            )
        if self.ct_host_type == "sim" and len(missing) < len(_CREDENTIALS):
            given = [name.upper() for name in _CREDENTIALS if getattr(self, name) is not None]
            raise ValueError(
                f"{', '.join(given)} given, but CT_HOST_TYPE is sim: set it to demo or live, or unset them"
            )
        return self
