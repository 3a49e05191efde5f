"""Who a message is."""

from __future__ import annotations

from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from shared.messages import derived_id


@given(parent=st.uuids(), name=st.text())
def test_a_derived_id_is_the_librarys(parent: UUID, name: str) -> None:
    """Ids stand in streams and journals: a message must not be another one after an update."""
    assert derived_id(parent, name) == uuid5(parent, name)
