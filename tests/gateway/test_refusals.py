"""What the venue's errors mean: a class for each thing to do, and none that stops a reader."""

from __future__ import annotations

import pytest
from ctrader_open_api.messages import OpenApiCommonModelMessages_pb2, OpenApiModelMessages_pb2

from services.gateway import refusals
from services.gateway.refusals import CLASSES, leaves_an_order_open, refusal
from shared.errors import InputError, OutcomeUnknownError, UnavailableError

DEFINED = (
    *OpenApiCommonModelMessages_pb2.ProtoErrorCode.keys(),
    *OpenApiModelMessages_pb2.ProtoOAErrorCode.keys(),
)


def test_every_public_code_has_its_class() -> None:
    """A code that was forgotten would be treated as an unknown one."""
    assert set(DEFINED) <= CLASSES.keys()


@pytest.mark.parametrize(
    ("code", "kind", "root"),
    [
        ("CANT_ROUTE_REQUEST", refusals.VenueAwayError, UnavailableError),
        ("BLOCKED_PAYLOAD_TYPE", refusals.TooFastError, UnavailableError),
        ("ACCOUNT_NOT_AUTHORIZED", refusals.SessionEndedError, UnavailableError),
        ("OA_AUTH_TOKEN_EXPIRED", refusals.TokenRefusedError, UnavailableError),
        ("TIMEOUT_ERROR", refusals.UnsureError, OutcomeUnknownError),
        ("NOT_ENOUGH_MONEY", refusals.RefusedError, InputError),
        ("CH_CLIENT_AUTH_FAILURE", refusals.CredentialsRefusedError, InputError),
    ],
)
def test_class_says_what_to_do(code: str, kind: type[Exception], root: type[Exception]) -> None:
    """Try again, slow down, restore, refresh, ask, give up: nobody compares texts."""
    error = refusal(code, "in words")
    assert type(error) is kind
    assert isinstance(error, root)
    assert str(error) == f"{code}: in words"


def test_what_is_so_already_is_no_failure() -> None:
    """Logging in twice is being logged in."""
    for code in ("ALREADY_LOGGED_IN", "CH_CLIENT_ALREADY_AUTHENTICATED", "ALREADY_SUBSCRIBED"):
        error = refusal(code)
        assert type(error) is refusals.AlreadySoError
        assert not isinstance(error, InputError | UnavailableError | OutcomeUnknownError)


def test_invalid_request_may_mean_that_the_account_is_not_authorised() -> None:
    """The definitions have a code for it; servers send this one, with a text."""
    assert type(refusal("INVALID_REQUEST", "Trading account is not authorized")) is refusals.SessionEndedError
    assert type(refusal("INVALID_REQUEST", "Nothing to amend.")) is refusals.RefusedError


def test_code_that_nobody_knows_leaves_us_unsure() -> None:
    """It must not stop a reader, and it must not be taken for a plain no."""
    error = refusal("SOMETHING_NEW")
    assert isinstance(error, OutcomeUnknownError)
    assert leaves_an_order_open(error)


@pytest.mark.parametrize(
    ("code", "open_after"),
    [
        ("UNKNOWN_ERROR", True),
        ("TIMEOUT_ERROR", True),
        ("CANT_ROUTE_REQUEST", True),
        ("NOT_ENOUGH_MONEY", False),
        ("MARKET_CLOSED", False),
        ("BLOCKED_PAYLOAD_TYPE", False),
        ("ACCOUNT_NOT_AUTHORIZED", False),
    ],
)
def test_order_that_may_have_reached_the_market_is_looked_up(code: str, open_after: bool) -> None:
    """Tried again later it could be a second one; what was stopped at the door certainly was none."""
    assert leaves_an_order_open(refusal(code)) is open_after


@pytest.mark.parametrize("end", [1_767_225_600, 1_767_225_600_000])
def test_end_of_a_maintenance_is_told_whichever_unit_it_comes_in(end: int) -> None:
    """One carrier has seconds, the other milliseconds."""
    error = refusal("SERVER_IS_UNDER_MAINTENANCE", "Sorry", maintenance_end=end)
    assert str(error) == "SERVER_IS_UNDER_MAINTENANCE: Sorry (maintenance until 2026-01-01T00:00+00:00)"
