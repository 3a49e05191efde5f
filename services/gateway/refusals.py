"""What the venue's error codes mean for us. Pure: a table of names, and one class for each thing to do.

The venue names its errors by text. Names and meanings are those of the public definitions, and a few more
that servers were seen to send; what to do about each is our judgement.
"""

from __future__ import annotations

from datetime import UTC, datetime

from shared.errors import InputError, MeshError, OutcomeUnknownError, UnavailableError

NOT_AUTHORIZED = "Trading account is not authorized"  # the text that comes with INVALID_REQUEST
SECONDS_BELOW = 10**11  # the end of a maintenance comes in seconds or in ms: a smaller number is seconds


class VenueError(MeshError):
    """The venue answered with an error. `code` is its name for it, the class says what to do."""

    def __init__(self, code: str, description: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code}: {description}" if description else code)
        self.code = code
        self.description = description
        self.retry_after_s = retry_after_s  # what the venue asks for


class RefusedError(VenueError, InputError):
    """This request is refused, and will be if it is sent again."""


class CredentialsRefusedError(RefusedError):
    """Application, account or token are refused: nothing at all can be done with them."""


class TokenRefusedError(VenueError, UnavailableError):
    """The access token has ended: refresh it, then authorise the account again."""


class SessionEndedError(VenueError, UnavailableError):
    """The account is not authorised on this connection any more: restore the session, then ask again."""


class TooFastError(VenueError, UnavailableError):
    """Requests of this kind come too fast: wait, as long as it says or longer."""


class VenueAwayError(VenueError, UnavailableError):
    """The venue cannot do it now: try again later."""


class UnsureError(VenueError, OutcomeUnknownError):
    """It may have been done, or the state is not what we thought: ask what there is first."""


class AlreadySoError(VenueError):
    """What was asked for is so already: as good as done."""


CLASSES: dict[str, type[VenueError]] = {
    # ProtoErrorCode
    "UNKNOWN_ERROR": UnsureError,
    "UNSUPPORTED_MESSAGE": RefusedError,
    "INVALID_REQUEST": RefusedError,  # SessionEndedError with the text NOT_AUTHORIZED
    "TIMEOUT_ERROR": UnsureError,
    "ENTITY_NOT_FOUND": RefusedError,
    "CANT_ROUTE_REQUEST": VenueAwayError,
    "FRAME_TOO_LONG": RefusedError,
    "MARKET_CLOSED": RefusedError,
    "CONCURRENT_MODIFICATION": VenueAwayError,
    "BLOCKED_PAYLOAD_TYPE": TooFastError,
    # ProtoOAErrorCode
    "OA_AUTH_TOKEN_EXPIRED": TokenRefusedError,
    "ACCOUNT_NOT_AUTHORIZED": SessionEndedError,
    "RET_NO_SUCH_LOGIN": CredentialsRefusedError,
    "ALREADY_LOGGED_IN": AlreadySoError,
    "INCORRECT_BOUNDARIES": RefusedError,
    "RET_ACCOUNT_DISABLED": CredentialsRefusedError,
    "CONNECTIONS_LIMIT_EXCEEDED": VenueAwayError,
    "WORSE_GSL_NOT_ALLOWED": RefusedError,
    "SYMBOL_HAS_HOLIDAY": RefusedError,
    "CH_CLIENT_AUTH_FAILURE": CredentialsRefusedError,
    "CH_CLIENT_NOT_AUTHENTICATED": SessionEndedError,
    "CH_CLIENT_ALREADY_AUTHENTICATED": AlreadySoError,
    "CH_ACCESS_TOKEN_INVALID": TokenRefusedError,
    "CH_SERVER_NOT_REACHABLE": VenueAwayError,
    "CH_CTID_TRADER_ACCOUNT_NOT_FOUND": CredentialsRefusedError,
    "CH_OA_CLIENT_NOT_FOUND": CredentialsRefusedError,
    "REQUEST_FREQUENCY_EXCEEDED": TooFastError,
    "SERVER_IS_UNDER_MAINTENANCE": VenueAwayError,
    "CHANNEL_IS_BLOCKED": RefusedError,
    "NOT_SUBSCRIBED_TO_SPOTS": SessionEndedError,
    "ALREADY_SUBSCRIBED": AlreadySoError,
    "SYMBOL_NOT_FOUND": RefusedError,
    "UNKNOWN_SYMBOL": RefusedError,
    "NO_QUOTES": VenueAwayError,
    "NOT_ENOUGH_MONEY": RefusedError,
    "MAX_EXPOSURE_REACHED": RefusedError,
    "POSITION_NOT_FOUND": RefusedError,
    "ORDER_NOT_FOUND": UnsureError,
    "POSITION_NOT_OPEN": UnsureError,
    "POSITION_LOCKED": VenueAwayError,
    "TOO_MANY_POSITIONS": RefusedError,
    "TRADING_BAD_VOLUME": RefusedError,
    "TRADING_BAD_STOPS": RefusedError,
    "TRADING_BAD_PRICES": RefusedError,
    "TRADING_BAD_STAKE": RefusedError,
    "PROTECTION_IS_TOO_CLOSE_TO_MARKET": RefusedError,
    "TRADING_BAD_EXPIRATION_DATE": RefusedError,
    "PENDING_EXECUTION": VenueAwayError,
    "TRADING_DISABLED": RefusedError,
    "TRADING_NOT_ALLOWED": RefusedError,
    "UNABLE_TO_CANCEL_ORDER": UnsureError,
    "UNABLE_TO_AMEND_ORDER": UnsureError,
    "SHORT_SELLING_NOT_ALLOWED": RefusedError,
    "NOT_SUBSCRIBED_TO_PNL": RefusedError,
    # in no public definition
    "INVALID_STOPS_LEVEL": RefusedError,
    "NO_ENOUGH_MONEY_TO_OPEN_POSITION": RefusedError,
    "POSITION_NOT_FOUND_OR_NOT_OPENED": UnsureError,
    "ALREADY_CLOSED": UnsureError,
}


def refusal(
    code: str, description: str = "", *, retry_after_s: float | None = None, maintenance_end: int = 0
) -> VenueError:
    """Return the error that a code stands for; a code that nobody has heard of leaves us unsure.

    Args:
        code: the venue's name of the error.
        description: what it says beside it.
        retry_after_s: how long it wants us to wait, if it says so.
        maintenance_end: when a maintenance ends, in seconds or ms since 1970; 0: not said.
    """
    kind = CLASSES.get(code, UnsureError)
    if code == "INVALID_REQUEST" and NOT_AUTHORIZED.lower() in description.lower():
        kind = SessionEndedError
    if maintenance_end > 0:
        seconds = maintenance_end if maintenance_end < SECONDS_BELOW else maintenance_end / 1000
        end = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="minutes")
        description = f"{description} (maintenance until {end})".strip()
    return kind(code, description, retry_after_s=retry_after_s)


def leaves_an_order_open(error: VenueError) -> bool:
    """Whether an order may have been executed although this came for it: then the venue's books are asked."""
    return isinstance(error, UnsureError | VenueAwayError)
