"""How we are let in: the application, then the account, with a token that holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from services.gateway.inbox import Inbox
from services.gateway.link import Link, Received
from services.gateway.protocol import model, oa
from services.gateway.refusals import (
    AlreadySoError,
    CredentialsRefusedError,
    RefusedError,
    TokenRefusedError,
    VenueError,
)
from services.gateway.tokens import TokenPair, Tokens
from services.gateway.transport import Place
from shared.clock import utc_now
from shared.errors import InputError
from shared.log import get_logger

_GRANT_AGAIN = "grant access again and set CT_ACCESS_TOKEN and CT_REFRESH_TOKEN to the new pair"

log = get_logger("gateway.access")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are at the venue."""

    client_id: str
    client_secret: str = field(repr=False)
    account_id: int
    tokens: Tokens
    is_live: bool | None = None  # which kind of account it has to be; None: any, the venue is simulated


async def open_link(place: Place, who: Credentials, inbox: Inbox[Received]) -> Link:
    """Connect, and have the application let in: once for a connection.

    Raises:
        InputError: the application is refused, or a file cannot be read: it will not help to try again.
        UnavailableError, VenueError: not now.
    """
    link = await Link.connect(place, inbox)
    try:
        await asked(
            link.request, oa.ProtoOAApplicationAuthReq(clientId=who.client_id, clientSecret=who.client_secret)
        )
    except CredentialsRefusedError as error:
        link.abort("the application is refused")
        raise _refused(error, "check CT_CLIENT_ID and CT_CLIENT_SECRET") from error
    except BaseException:
        link.abort("the application could not be authorised")
        raise
    return link


async def authorise(link: Link, who: Credentials) -> None:
    """Authorise the account with a token that holds; one that is due or refused is refreshed first, once.

    Raises:
        InputError: the grant or the account is refused: it will not help to try again.
        UnavailableError, VenueError: not now.
    """
    pair = who.tokens.current()
    if utc_now() >= pair.due_at:
        pair = await _refresh(link, who, pair)
    try:
        await _authorise_with(link, who, pair)
    except TokenRefusedError as error:
        log.warning("token.refused", error=str(error))
        pair = await _refresh(link, who, pair)
        try:
            await _authorise_with(link, who, pair)
        except TokenRefusedError as again:
            raise _refused(again, f"a new access token is refused too; {_GRANT_AGAIN}") from again


async def _authorise_with(link: Link, who: Credentials, pair: TokenPair) -> None:
    granted = await link.request(oa.ProtoOAGetAccountListByAccessTokenReq(accessToken=pair.access_token))
    _check_grant(granted, who)
    try:
        await asked(
            link.request,
            oa.ProtoOAAccountAuthReq(ctidTraderAccountId=who.account_id, accessToken=pair.access_token),
        )
    except CredentialsRefusedError as error:
        raise _refused(error, "check CT_ACCOUNT_ID") from error


async def _refresh(link: Link, who: Credentials, held: TokenPair) -> TokenPair:
    """Return a newer token pair than the one held."""

    async def ask(refresh_token: str) -> TokenPair:
        try:
            answer = await link.request(oa.ProtoOARefreshTokenReq(refreshToken=refresh_token))
        except (TokenRefusedError, RefusedError) as error:
            raise _refused(error, f"the refresh token is refused; {_GRANT_AGAIN}") from error
        return TokenPair.fresh(answer.accessToken, answer.refreshToken, answer.expiresIn)

    return await who.tokens.refresh(held, ask)


def _refused(error: VenueError, do: str) -> CredentialsRefusedError:
    """Return the error that ends the process, with what an operator has to do."""
    return CredentialsRefusedError(error.code, f"{error.description}: {do}")


def _check_grant(granted: Any, who: Credentials) -> None:  # noqa: ANN401
    """See that the token may trade the account, and that the account is of the kind that we mean."""
    accounts = {account.ctidTraderAccountId: account for account in granted.ctidTraderAccount}
    account = accounts.get(who.account_id)
    if account is None:
        offered = ", ".join(map(str, sorted(accounts))) or "none"
        raise InputError(f"CT_ACCOUNT_ID: {who.account_id} is not granted by this token; granted: {offered}")
    if granted.permissionScope != model.SCOPE_TRADE:
        raise InputError("CT_ACCESS_TOKEN: it was granted with the scope `accounts`; trading needs `trading`")
    if who.is_live is not None and account.isLive != who.is_live:
        kind = "live" if account.isLive else "demo"
        raise InputError(f"CT_ACCOUNT_ID: {who.account_id} is a {kind} account: set CT_HOST_TYPE={kind}")


async def asked(ask: Callable[[Any], Awaitable[Any]], request: Any) -> None:  # noqa: ANN401
    """Ask for something that may be so already."""
    try:
        await ask(request)
    except AlreadySoError as error:
        log.info("session.already_so", request=request.DESCRIPTOR.name, code=error.code)
