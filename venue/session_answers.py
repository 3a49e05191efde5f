"""Answers that need no account: who a client is, what a token allows, and the way into an account and out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from venue.connection import NOT_AUTHORIZED, AnswerHere, Connection
from venue.credentials import Environment, Grant, Scope
from venue.protocol import messages, model
from venue.session import Request, RequestError, Session

VERSION = "91"
USER_ID = 1  # of the accounts' owner: there is one
_SCOPES = {Scope.ACCOUNTS: model.SCOPE_VIEW, Scope.TRADING: model.SCOPE_TRADE}


def application_auth(connection: Connection, request: Request) -> Iterable[Message]:
    """Let the application in."""
    if connection.application is not None:
        raise RequestError("CH_CLIENT_ALREADY_AUTHENTICATED", "Application is already authorized")
    application = connection.lobby.credentials.application(request.clientId, request.clientSecret)
    if application is None:
        raise RequestError("CH_CLIENT_AUTH_FAILURE", "clientId or clientSecret is incorrect")
    connection.application = application
    return [messages.ProtoOAApplicationAuthRes()]


def version(_: Connection, __: Request) -> Iterable[Message]:
    """Say which version of the protocol is spoken."""
    return [messages.ProtoOAVersionRes(version=VERSION)]


def account_list(connection: Connection, request: Request) -> Iterable[Message]:
    """List the accounts under a token, those of the other environment too."""
    grant = _grant(connection, request.accessToken)
    return [
        messages.ProtoOAGetAccountListByAccessTokenRes(
            accessToken=request.accessToken,
            permissionScope=_SCOPES[grant.scope],
            ctidTraderAccount=[
                model.ProtoOACtidTraderAccount(
                    ctidTraderAccountId=account.account_id,
                    isLive=account.environment is Environment.LIVE,
                    traderLogin=account.trader_login,
                )
                for account in connection.lobby.credentials.accounts
            ],
        )
    ]


def profile(connection: Connection, request: Request) -> Iterable[Message]:
    """Say whose token it is."""
    _grant(connection, request.accessToken)
    return [messages.ProtoOAGetCtidProfileByTokenRes(profile=model.ProtoOACtidProfile(userId=USER_ID))]


def account_auth(connection: Connection, request: Request) -> Iterable[Message]:
    """Let a known application work with an account."""
    grant = _grant(connection, request.accessToken)
    floor = connection.lobby.floors.get(request.ctidTraderAccountId)
    if floor is None:
        raise RequestError("CH_CTID_TRADER_ACCOUNT_NOT_FOUND", "No such account under this token")
    if floor.account.environment is not connection.environment:
        raise RequestError("CANT_ROUTE_REQUEST", "The account is served by the other host")
    if floor.account.account_id in connection.sessions:
        raise RequestError("ALREADY_LOGGED_IN", "Trading account is already authorized in this channel")
    connection.sessions[floor.account.account_id] = Session(floor, connection.outbox, grant)
    return [messages.ProtoOAAccountAuthRes(ctidTraderAccountId=floor.account.account_id)]


def account_logout(connection: Connection, request: Request) -> Iterable[Message]:
    """Leave an account; the connection stays."""
    account_id = request.ctidTraderAccountId
    if connection.sessions.pop(account_id, None) is None:
        raise RequestError("INVALID_REQUEST", NOT_AUTHORIZED)
    return [
        messages.ProtoOAAccountLogoutRes(ctidTraderAccountId=account_id),
        messages.ProtoOAAccountDisconnectEvent(ctidTraderAccountId=account_id),
    ]


def refresh_token(connection: Connection, request: Request) -> Iterable[Message]:
    """Give a new pair of tokens for the refresh token; the old access token is void."""
    application = connection.application
    credentials = connection.lobby.credentials
    pair = None if application is None else credentials.refresh(request.refreshToken, application.client_id)
    if pair is None:
        raise RequestError("CH_ACCESS_TOKEN_INVALID", "The refresh token is not valid")
    old, new = pair
    yield messages.ProtoOARefreshTokenRes(
        accessToken=new.access_token,
        tokenType="bearer",
        expiresIn=credentials.token_life_s,
        refreshToken=new.refresh_token,
    )
    connection.host.end_grant(old, "The token was refreshed")


def _grant(connection: Connection, access_token: str) -> Grant:
    application, credentials = connection.application, connection.lobby.credentials
    grant = None if application is None else credentials.grant_of(access_token, application.client_id)
    if grant is None:
        raise RequestError("CH_ACCESS_TOKEN_INVALID", "The access token is not valid")
    if credentials.is_expired(grant):
        raise RequestError("OA_AUTH_TOKEN_EXPIRED", "The access token has expired")
    return grant


ANSWERS: Mapping[str, AnswerHere] = {
    "ProtoOAApplicationAuthReq": application_auth,
    "ProtoOAVersionReq": version,
    "ProtoOAGetAccountListByAccessTokenReq": account_list,
    "ProtoOAGetCtidProfileByTokenReq": profile,
    "ProtoOAAccountAuthReq": account_auth,
    "ProtoOAAccountLogoutReq": account_logout,
    "ProtoOARefreshTokenReq": refresh_token,
}
