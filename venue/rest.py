"""The HTTPS door for tokens: a consent page that leads to a code, and the code to a pair of tokens."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import orjson

from shared.clock import monotonic_s
from venue.credentials import Credentials, Grant, Scope
from venue.web import BadCallError, Call, Reply

CODE_LIFE_S = 60.0
CODES_MAX = 1_000  # that wait to be used; the oldest are forgotten
CONSENT_PATHS = ("/apps/auth", "/my/settings/openapi/grantingaccess", "/my/settings/openapi/grantingaccess/")
TOKEN_PATH = "/apps/token"  # noqa: S105 - an address

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Grant access</title></head><body>
<h1>Grant access to your accounts</h1>
<p>The application <b>{client_id}</b> asks for <b>{scope}</b> on these accounts of the simulated venue:</p>
<ul>{accounts}</ul>
<form method="post" action="{action}">
<button name="consent" value="allow">Allow access</button> <button name="consent" value="deny">Deny</button>
</form></body></html>
"""


@dataclass(frozen=True, slots=True)
class _Code:
    client_id: str
    redirect_uri: str
    scope: Scope
    expires_s: float  # monotonic


class TokenDesk:
    """Answers the calls of applications and of the browsers that they send."""

    def __init__(self, credentials: Credentials, end_grant: Callable[[Grant, str], None]) -> None:
        """Take who may use the venue, and who ends the sessions of a grant."""
        self._credentials = credentials
        self._end_grant = end_grant
        self._codes: dict[str, _Code] = {}

    async def answer(self, call: Call) -> Reply:
        """Answer one call.

        Raises:
            BadCallError: it is none of those that are served.
        """
        if call.path in CONSENT_PATHS and call.method == "GET":
            return self._consent_page(call)
        if call.path in CONSENT_PATHS and call.method == "POST":
            return self._consent(call)
        if call.path == TOKEN_PATH and call.method in ("GET", "POST"):
            asked = call.query | dict(parse_qsl(call.content.decode("latin-1")))
            return Reply(orjson.dumps(self._tokens(asked)))
        raise BadCallError(404, f"{call.method} {call.path} is not served")

    # -- consent -------------------------------------------------------------------------------

    def _consent_page(self, call: Call) -> Reply:
        client_id, _, scope = self._asked(call)
        accounts = "".join(
            f"<li>{account.trader_login} ({account.environment}, {account.kind})</li>"
            for account in self._credentials.accounts
        )
        action = f"{call.path}?{urlencode(call.query)}"
        page = _PAGE.format(
            client_id=escape(client_id), scope=scope, accounts=accounts, action=escape(action, quote=True)
        )
        return Reply(page.encode(), content_type="text/html; charset=utf-8")

    def _consent(self, call: Call) -> Reply:
        client_id, redirect_uri, scope = self._asked(call)
        if dict(parse_qsl(call.content.decode("latin-1"))).get("consent", "allow") == "allow":
            code = secrets.token_urlsafe(32)
            self._codes[code] = _Code(client_id, redirect_uri, scope, monotonic_s() + CODE_LIFE_S)
            while len(self._codes) > CODES_MAX:
                del self._codes[next(iter(self._codes))]
            told = {"code": code}
        else:
            told = {"error": "access_denied"}
        address = urlsplit(redirect_uri)
        query = "&".join(part for part in (address.query, urlencode(told)) if part)
        location = urlunsplit((address.scheme, address.netloc, address.path, query, address.fragment))
        return Reply(b"", 302, headers={"Location": location})

    def _asked(self, call: Call) -> tuple[str, str, Scope]:
        client_id, redirect_uri = call.query.get("client_id", ""), call.query.get("redirect_uri", "")
        if not self._credentials.is_application(client_id):
            raise _refusal("CH_OA_CLIENT_NOT_FOUND", "No such client_id")
        try:
            address = urlsplit(redirect_uri)
        except ValueError as error:
            raise _refusal("INVALID_REQUEST", "redirect_uri is not an address") from error
        if address.scheme not in ("http", "https") or not address.netloc or not redirect_uri.isprintable():
            raise _refusal("INVALID_REQUEST", "redirect_uri is not an address")
        try:
            return client_id, redirect_uri, Scope(call.query.get("scope", "trading"))
        except ValueError as error:
            raise _refusal("INVALID_REQUEST", "scope is accounts or trading") from error

    # -- tokens --------------------------------------------------------------------------------

    def _tokens(self, asked: dict[str, str]) -> dict[str, Any]:
        client_id = asked.get("client_id", "")
        if self._credentials.application(client_id, asked.get("client_secret", "")) is None:
            raise _refusal("CH_CLIENT_AUTH_FAILURE", "client_id or client_secret is incorrect")
        match asked.get("grant_type"):
            case "authorization_code":
                return self._told(self._of_code(asked.get("code", ""), client_id, asked))
            case "refresh_token":
                return self._told(self._refreshed(asked.get("refresh_token", ""), client_id))
        raise _refusal("INVALID_REQUEST", "grant_type is authorization_code or refresh_token")

    def _of_code(self, code: str, client_id: str, asked: dict[str, str]) -> Grant:
        found = self._codes.pop(code, None)  # usable once, by whoever comes first
        if found is None or found.client_id != client_id or monotonic_s() > found.expires_s:
            raise _refusal("ACCESS_DENIED", "The code is not valid")
        if asked.get("redirect_uri") != found.redirect_uri:
            raise _refusal("ACCESS_DENIED", "redirect_uri is not that of the code")
        return self._credentials.grant(client_id, found.scope)

    def _refreshed(self, refresh_token: str, client_id: str) -> Grant:
        pair = self._credentials.refresh(refresh_token, client_id)
        if pair is None:
            raise _refusal("CH_ACCESS_TOKEN_INVALID", "The refresh token is not valid")
        old, new = pair
        self._end_grant(old, "The token was refreshed")
        return new

    def _told(self, grant: Grant) -> dict[str, Any]:
        """Return a pair of tokens; the real one spells every name twice, and clients read either."""
        life_s = self._credentials.token_life_s
        return {
            "accessToken": grant.access_token,
            "access_token": grant.access_token,
            "refreshToken": grant.refresh_token,
            "refresh_token": grant.refresh_token,
            "tokenType": "bearer",
            "token_type": "bearer",
            "expiresIn": life_s,
            "expires_in": life_s,
            "errorCode": None,
            "description": None,
        }


class _RefusedCallError(BadCallError):
    """A refusal with the venue's own code."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(400, description)
        self.code = code


def _refusal(code: str, description: str) -> _RefusedCallError:
    return _RefusedCallError(code, description)


def refused(error: BadCallError) -> Reply:
    """Return an error as applications read it."""
    code = error.code if isinstance(error, _RefusedCallError) else "INVALID_REQUEST"
    return Reply(orjson.dumps({"errorCode": code, "description": str(error)}), error.status)
