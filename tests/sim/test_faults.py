"""Days under the venue's faults, a few hours of them: `tradeguard bench faults` runs them whole."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
from bench.faults import ALL, RULES, requests_of, requests_of_all, run_day
from shared import streams
from shared.messages import ExecutionKind, ExecutionReported
from sim.auditor import Auditor, Finding
from venue.fault_names import FAULTS

SLICES = 24


@pytest.mark.parametrize("name", ["execution_lost", ALL])
def test_stretch_under_faults_keeps_every_rule(name: str) -> None:
    """Nothing is doubled, lost, left open or bare, and the ledger is what was told, to the cent."""
    result = run_day(name, SLICES)
    struck = result["struck"]
    assert (sum(struck.values()) if isinstance(struck, dict) else struck) >= 5
    assert result["orders"] >= 8
    assert result["findings"] == []
    assert [result[rule] for rule in RULES] == [0] * len(RULES)
    assert result["ledger_cents"] == result["mesh_cents"] != 0


def test_cent_that_is_told_and_not_in_the_ledger_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who compares nothing finds nothing: the judge itself is tried with a result that is a cent too much."""
    judge = Auditor.judge

    def told_wrong(auditor: Auditor) -> list[Finding]:
        entries = auditor._world.server.streams[streams.EXECUTIONS.name].entries
        closed = next(entry for entry in entries if is_closed(entry.message))
        assert isinstance(closed.message, ExecutionReported)
        assert closed.message.pnl is not None
        closed.message = closed.message.model_copy(update={"pnl": closed.message.pnl + Decimal("0.01")})
        return judge(auditor)

    monkeypatch.setattr(Auditor, "judge", told_wrong)
    result = run_day("accept_lost", SLICES)
    assert result["mesh_cents"] - result["ledger_cents"] == 1
    assert result["off_ledger"] == 2  # the result of one position, and the sum


def is_closed(message: Any) -> bool:
    return isinstance(message, ExecutionReported) and message.kind is ExecutionKind.CLOSED


def test_every_fault_is_asked_for_alone_and_with_all() -> None:
    """A new name in the venue's table has its day, and the venue takes what is asked for."""
    together = requests_of_all()
    assert {request["fault"] for request in together} == set(FAULTS)
    for name in FAULTS:
        alone = [request for request in requests_of(name) if request["fault"] == name]
        mixed = [request for request in together if request["fault"] == name]
        assert len(alone) == len(mixed) >= 1
        assert all(request["probability"] > 0 for request in mixed)
