"""The venue's books: in a folder they outlive the venue, in memory they answer alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.venue.core import T0, a_core, opened
from venue.ledger import Ledger
from venue.records import Deal, Order, Position


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[tuple[Ledger, Ledger]]:
    """Yield books in memory and books in a folder, with the same account in them."""
    with closing(Ledger(None)) as in_memory, closing(Ledger(tmp_path)) as kept:
        core = a_core()
        opened(core, 110_000, 110_008, relative_stop_points=100)
        changes = core.take_changes()
        for ledger in (in_memory, kept):
            ledger.write(changes, T0 + 1_000)
        yield in_memory, kept


def test_books_in_memory_answer_as_those_in_a_folder(ledgers: tuple[Ledger, Ledger]) -> None:
    """A simulation is audited by the books that a real run is audited by."""
    in_memory, kept = ledgers
    assert in_memory.books() == kept.books()
    assert kept.books()["positions"]
    for kind in (Order, Position):
        assert in_memory.standing(kind) == kept.standing(kind) != []
    assert in_memory.between(Deal, T0, T0 + 1_000, None) == kept.between(Deal, T0, T0 + 1_000, None) != []
    assert in_memory.balance() == kept.balance() is not None


def test_only_books_in_a_folder_keep_the_time_at_which_nothing_happened(
    ledgers: tuple[Ledger, Ledger],
) -> None:
    """A venue that is started again goes on from its last moment, not from its last deal."""
    for ledger in ledgers:
        ledger.write([], T0 + 60_000)
    in_memory, kept = ledgers
    assert (in_memory.books()["time_ms"], kept.books()["time_ms"]) == (T0 + 1_000, T0 + 60_000)
