"""Which deals closed which: of a position's entries the oldest is closed first. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from venue.records import Deal

Offsets = list[tuple[Deal, int]]  # the other deal, and the volume that the two have in common, in cents


def offsets(deal: Deal, of_position: Iterable[Deal]) -> tuple[Offsets, Offsets]:
    """Return the deals that closed what a deal opened, and those whose opening it closed.

    Args:
        deal: one deal of a position.
        of_position: all deals of the position, in any order.
    """
    waiting: Offsets = []  # entries with what is still open of each
    closed_by: Offsets = []
    closes: Offsets = []
    for each in sorted(of_position, key=lambda other: other.deal_id):
        if each.entry_points is None:
            waiting.append((each, each.volume_cents))
            continue
        left = each.volume_cents
        while left:
            entry, still_open = waiting[0]
            common = min(left, still_open)
            left -= common
            waiting[:1] = [(entry, still_open - common)] if still_open > common else []
            if entry.deal_id == deal.deal_id:
                closed_by.append((each, common))
            if each.deal_id == deal.deal_id:
                closes.append((entry, common))
    return closed_by, closes
