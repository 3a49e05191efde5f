"""The audit: the venue's own books against the streams. A zero is counted from the venue's side. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.mesh_view import MeshView
from shared.messages import ExecutionKind, Verdict

PROTECTION_MS = 2_000  # a position may stand so long without a stop, in venue time
_FILLS = (ExecutionKind.FILLED,)
_NEVER_ARRIVED = (ExecutionKind.NOT_SENT, ExecutionKind.EXPIRED, ExecutionKind.REFUSED)


@dataclass
class Findings:
    """What the books say, and every difference in words."""

    fills: int = 0
    fills_by_symbol: dict[str, int] = field(default_factory=dict)
    fills_by_side: dict[str, int] = field(default_factory=dict)
    closed_by_stop: int = 0
    closed_by_target: int = 0
    duplicates: int = 0
    lost: int = 0
    unprotected: int = 0
    unresolved: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was doubled, lost, unprotected or left open."""
        return not (self.duplicates or self.lost or self.unprotected or self.unresolved)


def audit(ledger: Mapping[str, Any], mesh: MeshView, book: str) -> Findings:
    """Compare the venue's ledger with the streams of a book."""
    prefix = f"TG-{book}-"
    entries = [o for o in ledger["orders"] if not o["closing"] and o["label"].startswith(prefix)]
    filled = [o for o in entries if o["status"] == "FILLED"]
    positions = [p for p in ledger["positions"] if p["label"].startswith(prefix)]
    findings = Findings(
        fills=len(filled),
        fills_by_symbol=dict(Counter(o["symbol"] for o in filled)),
        fills_by_side=dict(Counter(o["side"] for o in filled)),
        closed_by_stop=sum(p["close_reason"] == "STOP" for p in positions),
        closed_by_target=sum(p["close_reason"] == "TARGET" for p in positions),
    )
    _count_duplicates(findings, entries)
    _count_lost(findings, entries, positions, mesh, book)
    _count_unprotected(findings, positions)
    for order, status in mesh.unsettled().items():
        findings.unresolved += 1
        findings.differences.append(f"unresolved: {order} is {status or 'untouched'}")
    return findings


def _count_duplicates(findings: Findings, entries: Sequence[Mapping[str, Any]]) -> None:
    for order, count in Counter(o["client_order_id"] for o in entries).items():
        if count > 1:
            findings.duplicates += count - 1
            findings.differences.append(f"duplicate: {order} is {count} orders at the venue")


def _count_lost(
    findings: Findings,
    entries: Sequence[Mapping[str, Any]],
    positions: Sequence[Mapping[str, Any]],
    mesh: MeshView,
    book: str,
) -> None:
    """Whatever one side knows and the other does not."""
    at_venue = {o["client_order_id"]: o["status"] for o in entries}
    closed_at_venue = {p["label"] for p in positions if p["status"] == "CLOSED"}
    lost = [f"{order}: allowed, but nothing was decided" for order in _undecided(mesh, book)]
    for order in mesh.requests.keys() | at_venue.keys():
        kinds = {e.kind for e in mesh.executions.get(order, ())}
        told_filled = bool(kinds & set(_FILLS))
        is_filled = at_venue.get(order) == "FILLED"
        if order not in mesh.requests:
            lost.append(f"{order}: at the venue, but never requested")
        elif is_filled != told_filled:
            lost.append(f"{order}: filled at the venue {is_filled}, on the streams {told_filled}")
        elif order in at_venue and kinds & set(_NEVER_ARRIVED) and not told_filled:
            lost.append(f"{order}: at the venue, but told as never arrived")
        if (order in closed_at_venue) != (ExecutionKind.CLOSED in kinds):
            lost.append(
                f"{order}: closed at the venue {order in closed_at_venue}, on the streams not the same"
            )
    findings.lost = len(lost)
    findings.differences += [f"lost: {sentence}" for sentence in lost]


def _undecided(mesh: MeshView, book: str) -> list[str]:
    wanted = (
        f"TG-{book}-{s.close_time:%Y%m%dT%H%M}-{s.symbol}"
        for s in mesh.signals.values()
        if s.verdict is Verdict.ALLOW
    )
    return [order for order in wanted if order not in mesh.requests and order not in mesh.refusals]


def _count_unprotected(findings: Findings, positions: Sequence[Mapping[str, Any]]) -> None:
    for position in positions:
        for since_ms, until_ms in position["unprotected"]:
            still_open = until_ms is None and position["closed_ms"] is None
            if still_open or (until_ms is not None and until_ms - since_ms > PROTECTION_MS):
                findings.unprotected += 1
                findings.differences.append(f"unprotected: {position['label']} from {since_ms} to {until_ms}")
                break
