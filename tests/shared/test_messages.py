"""Who a message is."""

from __future__ import annotations

from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.messages import NAMESPACE, BarClosed, Meta, derived_id
from tests.builders import MONDAY


@given(parent=st.uuids(), name=st.text())
def test_a_derived_id_is_the_librarys(parent: UUID, name: str) -> None:
    """Ids stand in streams and journals: a message must not be another one after an update."""
    assert derived_id(parent, name) == uuid5(parent, name).hex


def test_a_message_has_the_ids_of_what_made_it() -> None:
    """A replay makes the same ones; the slice's goes with all that follows."""
    root = Meta.root("one", MONDAY, "slice")
    assert root == Meta(
        message_id=uuid5(NAMESPACE, "one"), correlation_id=uuid5(NAMESPACE, "slice"), event_time=MONDAY
    )
    assert Meta.root("one", MONDAY).correlation_id == root.message_id
    assert root.effect(BarClosed, "EURUSD") == Meta(
        message_id=uuid5(root.message_id, "BarClosed:EURUSD"),
        correlation_id=root.correlation_id,
        causation_id=root.message_id,
        event_time=MONDAY,
    )


def test_a_meta_without_a_time_zone_is_an_error() -> None:
    """Whose clock would it be?"""
    with pytest.raises(ValidationError):
        Meta.root("one", MONDAY.replace(tzinfo=None))
