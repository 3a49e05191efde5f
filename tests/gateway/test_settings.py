"""Settings that do not fit together are refused in one sentence."""

from __future__ import annotations

import pytest

from services.gateway.settings import GatewaySettings
from shared.errors import InputError
from shared.settings import load

CREDENTIALS = {
    "CT_CLIENT_ID": "an-id",
    "CT_CLIENT_SECRET": "sEcReT-1",
    "CT_ACCESS_TOKEN": "sEcReT-2",
    "CT_REFRESH_TOKEN": "sEcReT-3",
    "CT_ACCOUNT_ID": "42",
}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("CT_HOST_TYPE", *CREDENTIALS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))  # no .env


def set_all(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_simulated_venue_is_the_default_and_needs_nothing() -> None:
    """The default is the safe one."""
    assert load(GatewaySettings).ct_host_type == "sim"


@pytest.mark.parametrize("host_type", ["demo", "live"])
def test_missing_credentials_are_named(host_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has set half of them is told the other half, and no secret is shown."""
    set_all(
        monkeypatch,
        CT_HOST_TYPE=host_type,
        **{name: CREDENTIALS[name] for name in ("CT_CLIENT_ID", "CT_CLIENT_SECRET")},
    )
    with pytest.raises(InputError) as caught:
        load(GatewaySettings)
    told = str(caught.value)
    assert f"CT_HOST_TYPE={host_type} needs CT_ACCESS_TOKEN, CT_REFRESH_TOKEN, CT_ACCOUNT_ID too" in told
    assert "sEcReT" not in told
    assert "CT_CLIENT_ID" not in told


def test_empty_credential_is_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line `CT_ACCESS_TOKEN=` in the file is no token."""
    set_all(monkeypatch, CT_HOST_TYPE="demo", **{**CREDENTIALS, "CT_ACCESS_TOKEN": ""})
    with pytest.raises(InputError, match="needs CT_ACCESS_TOKEN too"):
        load(GatewaySettings)


def test_credentials_for_the_simulated_venue_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets credentials means a real venue: trading on the simulated one would go unnoticed."""
    set_all(monkeypatch, **{name: CREDENTIALS[name] for name in ("CT_CLIENT_ID", "CT_ACCESS_TOKEN")})
    with pytest.raises(InputError, match="CT_CLIENT_ID, CT_ACCESS_TOKEN given, but CT_HOST_TYPE is sim"):
        load(GatewaySettings)


def test_unknown_host_type_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prod` is neither of them, and must not fall back to one."""
    set_all(monkeypatch, CT_HOST_TYPE="prod", **CREDENTIALS)
    with pytest.raises(InputError, match=r"CT_HOST_TYPE: .*'sim', 'demo' or 'live'"):
        load(GatewaySettings)


def test_complete_credentials_are_taken_and_kept_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed of the settings holds no secret."""
    set_all(monkeypatch, CT_HOST_TYPE="live", **CREDENTIALS)
    settings = load(GatewaySettings)
    assert settings.ct_account_id == 42
    assert "sEcReT" not in repr(settings)


def test_order_is_never_given_up_in_less_than_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that is still on its way must not be taken for one that never left."""
    monkeypatch.setenv("GATEWAY_ABSENT_AFTER_S", "3")
    with pytest.raises(InputError, match="GATEWAY_ABSENT_AFTER_S"):
        load(GatewaySettings)
