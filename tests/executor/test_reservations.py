"""Whose order an id is, and of which slice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.reservations import client_order_id, close_time_of


@given(
    minutes=st.integers(min_value=0, max_value=100 * 366 * 24 * 60),
    book=st.from_regex(r"[a-z0-9-]{1,12}", fullmatch=True),
    symbol=st.from_regex(r"[A-Z]{6}", fullmatch=True),
)
def test_an_id_says_when_its_slice_closed(minutes: int, book: str, symbol: str) -> None:
    """An execution of a request that was lost finds its slice again."""
    close = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    assert close_time_of(client_order_id(book, close, symbol), book=book) == close


@pytest.mark.parametrize(
    "key",
    [
        "",
        "TG-main-20250106T1005",
        "TG-main-20250106T1005-",
        "TG-main-20250106T1005-EURUSD-2",
        "TG-main-20251306T1005-EURUSD",
        "TG-main-20250106T2405-EURUSD",
        "TG-main-20250106-EURUSD",
        "TG-main2-20250106T1005-EURUSD",
        "TG-mai-20250106T1005-EURUSD",
        "tg-main-20250106T1005-EURUSD",
        "xTG-main-20250106T1005-EURUSD",
    ],
)
def test_what_is_not_an_id_of_this_book_has_no_close(key: str) -> None:
    """A foreign label may look like anything; it is watched and never touched."""
    assert close_time_of(key, book="main") is None
