"""Who may use this venue: applications, accounts and tokens; made at its first start, kept in its folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from shared.clock import utc_now
from shared.errors import InputError
from venue.terms import AccountKind

CREDENTIALS_NAME = "credentials.json"
SECRET_MODE = 0o600
ACCESS_TOKEN_LIFE_S = 2_628_000  # as the real one says: about 30 days

_ACCOUNT_ID_FIRST, _ACCOUNT_IDS = 40_000_000, 9_000_000
_TRADER_LOGIN_FIRST, _TRADER_LOGINS = 3_000_000, 900_000


class Environment(StrEnum):
    """Which of the venue's two hosts serves an account."""

    DEMO = "demo"
    LIVE = "live"


class Scope(StrEnum):
    """What an access token allows."""

    ACCOUNTS = "accounts"  # to look
    TRADING = "trading"


@dataclass(frozen=True, slots=True)
class Application:
    """A client program that is registered at the venue."""

    client_id: str
    client_secret: str


@dataclass(frozen=True, slots=True)
class Account:
    """A trading account. Its numbers come from the market's seed: they are no secrets."""

    account_id: int
    trader_login: int
    environment: Environment
    kind: AccountKind


@dataclass(frozen=True, slots=True)
class Grant:
    """What the accounts' owner allowed an application, and its pair of tokens."""

    client_id: str
    scope: Scope
    access_token: str
    refresh_token: str
    expires_s: float  # of the access token, seconds since the epoch; the refresh token does not expire


@dataclass
class Credentials:
    """All of it, and under which ports the venue was last reached."""

    path: Path
    token_life_s: int
    control_token: str
    applications: list[Application]
    accounts: list[Account]
    grants: list[Grant]
    ports: dict[str, int] = field(default_factory=dict)

    def application(self, client_id: str, client_secret: str) -> Application | None:
        """Return the application that this is, None if it is none."""
        for application in self.applications:
            same_id = secrets.compare_digest(client_id.encode(), application.client_id.encode())
            same_secret = secrets.compare_digest(client_secret.encode(), application.client_secret.encode())
            if same_id and same_secret:
                return application
        return None

    def is_application(self, client_id: str) -> bool:
        """Tell whether an application has this id."""
        return any(application.client_id == client_id for application in self.applications)

    def grant_of(self, access_token: str, client_id: str) -> Grant | None:
        """Return what an access token allows an application; it may have expired."""
        return self._grant("access_token", access_token, client_id)

    def is_expired(self, grant: Grant) -> bool:
        """Tell whether the life of an access token is over."""
        return utc_now().timestamp() >= grant.expires_s

    def is_control_token(self, token: str) -> bool:
        """Tell whether this opens the control door."""
        return secrets.compare_digest(token.encode(), self.control_token.encode())

    def grant(self, client_id: str, scope: Scope) -> Grant:
        """Let an application in, with a pair of tokens of its own."""
        made = Grant(client_id, scope, *_pair(), expires_s=utc_now().timestamp() + self.token_life_s)
        self.grants.append(made)
        self.save()
        return made

    def refresh(self, refresh_token: str, client_id: str) -> tuple[Grant, Grant] | None:
        """Replace a pair of tokens, on disk first; return the grant before and after, if there is one."""
        old = self._grant("refresh_token", refresh_token, client_id)
        if old is None:
            return None
        access, refresh = _pair()
        expires_s = utc_now().timestamp() + self.token_life_s
        return old, self._put(
            old, replace(old, access_token=access, refresh_token=refresh, expires_s=expires_s)
        )

    def void_access(self, grant: Grant) -> None:
        """Make an access token worthless, on disk first; its refresh token stays good."""
        self._put(grant, replace(grant, access_token=_pair()[0]))

    def save(self) -> None:
        """Write all of it, readable by the owner alone."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("path", "token_life_s")}
        write_secret(self.path, orjson.dumps(kept, option=orjson.OPT_INDENT_2))

    def _grant(self, kind: str, token: str, client_id: str) -> Grant | None:
        for grant in self.grants:
            if grant.client_id == client_id and secrets.compare_digest(
                token.encode(), getattr(grant, kind).encode()
            ):
                return grant
        return None

    def _put(self, old: Grant, new: Grant) -> Grant:
        self.grants[self.grants.index(old)] = new
        self.save()
        return new


def load_credentials(
    folder: Path,
    *,
    applications: int = 1,
    accounts: Sequence[tuple[Environment, AccountKind]] = ((Environment.DEMO, AccountKind.HEDGED),),
    seed: int = 0,
    token_life_s: int = ACCESS_TOKEN_LIFE_S,
) -> Credentials:
    """Return the credentials kept in `folder`; what is missing is made now.

    Args:
        folder: of the venue.
        applications: how many are registered at least; the first is granted trading.
        accounts: environment and kind of each.
        seed: of the accounts' numbers.
        token_life_s: of access tokens that are made from now on.

    Raises:
        InputError: the folder holds other accounts, or no credentials that this version reads.
    """
    path = folder / CREDENTIALS_NAME
    kept = _kept(path, token_life_s) if path.exists() else None
    found = kept or Credentials(path, token_life_s, secrets.token_urlsafe(32), [], [], [])
    while len(found.applications) < applications:
        found.applications.append(Application(f"venue_{secrets.token_hex(8)}", secrets.token_urlsafe(32)))
    asked = _accounts(accounts, seed)
    if kept is not None and found.accounts != asked:
        raise InputError(f"{path} was begun with other accounts: use another folder")
    found.accounts = asked
    if found.grants:
        found.save()
    else:
        found.grant(found.applications[0].client_id, Scope.TRADING)
    return found


def _accounts(asked: Sequence[tuple[Environment, AccountKind]], seed: int) -> list[Account]:
    rng = np.random.default_rng([seed, len(CREDENTIALS_NAME)])
    ids = rng.choice(_ACCOUNT_IDS, size=len(asked), replace=False) + _ACCOUNT_ID_FIRST
    logins = rng.choice(_TRADER_LOGINS, size=len(asked), replace=False) + _TRADER_LOGIN_FIRST
    return [
        Account(int(account_id), int(login), environment, kind)
        for (environment, kind), account_id, login in zip(asked, ids, logins, strict=True)
    ]


def _kept(path: Path, token_life_s: int) -> Credentials:
    try:
        kept: dict[str, Any] = orjson.loads(path.read_bytes())
        kept["applications"] = [Application(**each) for each in kept["applications"]]
        kept["accounts"] = [_account(**each) for each in kept["accounts"]]
        kept["grants"] = [Grant(**{**each, "scope": Scope(each["scope"])}) for each in kept["grants"]]
        return Credentials(path=path, token_life_s=token_life_s, **kept)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not read by this version ({error}): use another folder") from error


def _account(account_id: int, trader_login: int, environment: str, kind: str) -> Account:
    return Account(account_id, trader_login, Environment(environment), AccountKind(kind))


def _pair() -> tuple[str, str]:
    return secrets.token_urlsafe(32), secrets.token_urlsafe(32)


def write_secret(path: Path, content: bytes) -> None:
    """Put a file in place in one move, readable by the owner alone."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
