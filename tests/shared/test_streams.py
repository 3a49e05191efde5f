"""What the table of streams says."""

from __future__ import annotations

from shared import streams


def test_an_account_entry_stays_while_something_that_names_it_is_unread() -> None:
    """Bars, columns and signals name it by its id, and it has no readers of its own."""
    assert set(streams.keepers(streams.ACCOUNT)) == {
        (streams.BARS, "features"),
        (streams.FEATURES, "inference"),
        (streams.SIGNALS, "executor"),
    }


def test_the_notifier_keeps_nothing_from_being_trimmed() -> None:
    """Who acts on an entry keeps it; a post that cannot be made does not."""
    kept = {stream.name: {group for _, group in streams.keepers(stream)} for stream in streams.STREAMS}
    assert kept["orders"] == {"gateway"}
    assert kept["executions"] == {"executor"}
    assert kept["commands"] == {"executor", "gateway"}
    assert kept["events"] == kept["dead"] == set()
