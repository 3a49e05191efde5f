"""Whatever dies, with an order in flight: it comes back, and nothing is doubled, lost or left bare."""

from __future__ import annotations

import asyncio

import pytest

from cli.demo import Demo
from cli.supervisor import SERVICES
from shared.clock import monotonic_s
from shared.messages import ExecutionKind
from tests.mesh.conftest import StartDemo

pytestmark = [pytest.mark.process, pytest.mark.slow]

SLICES = 30
HEALTH_S = 0.6  # services speak of themselves at least so often
BACK_S = 15.0  # 5 s on an idle machine; the tests' machine is shared


class Killer:
    """Kills one process as soon as an order is in flight, once, and times its way back."""

    def __init__(self, victim: str) -> None:
        self._victim = victim
        self.killed_with: str | None = None
        self.back_s: float | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __call__(self, demo: Demo) -> None:
        in_flight = demo.mesh.unsettled()
        if self.killed_with is None and in_flight:
            self.killed_with = next(iter(in_flight))
            demo.supervisor.kill(self._victim)
            self._watch = asyncio.create_task(self._until_back(demo))

    async def _until_back(self, demo: Demo) -> None:
        started = monotonic_s()
        while demo.supervisor.children[self._victim].restarts == 0:  # noqa: ASYNC110 - another task counts
            await asyncio.sleep(0.01)
        await demo.venue.state()  # answers again
        await asyncio.sleep(HEALTH_S)  # what was said before the kill is not believed
        await demo.wait_ready()
        self.back_s = monotonic_s() - started

    async def finish(self) -> None:
        assert self._watch, "no order was in flight in the whole run"
        async with asyncio.timeout(BACK_S):
            await self._watch


@pytest.mark.parametrize("victim", [*SERVICES, "venue", "valkey"])
async def test_a_process_killed_with_an_order_in_flight_costs_nothing(
    victim: str, start_demo: StartDemo
) -> None:
    """SIGKILL at the worst moment: one order at most, every decision ended, every position with a stop."""
    async with start_demo(SLICES) as demo:
        demo.hook = killer = Killer(victim)
        await demo.play()
        await killer.finish()
        result, findings = await demo.result()
    print(
        f"{victim}: killed with {killer.killed_with}, back in {killer.back_s:.1f} s, {result['fills']} fills"
    )
    assert findings.differences == []
    assert findings.clean
    assert result["slices"] == SLICES
    assert result["fills"] > 0
    assert result["restarts"][victim] == 1


async def test_a_fill_whose_stop_never_comes_is_protected_in_time(start_demo: StartDemo) -> None:
    """The venue's own protective order is withheld: the gateway sets both levels itself."""
    async with start_demo(SLICES) as demo:
        await demo.venue.fault("protection_missing", count=1)
        await demo.play()
        _, findings = await demo.result()
        ledger = await demo.venue.ledger()
        state = await demo.venue.state()
    repaired = [
        order
        for order, events in demo.mesh.executions.items()
        if any(event.kind is ExecutionKind.REPAIRING for event in events)
    ]
    assert state["faults_fired"] == {"protection_missing": 1}
    assert len(repaired) == 1
    kinds = [event.kind for event in demo.mesh.executions[repaired[0]]]
    after = kinds.index(ExecutionKind.REPAIRING)
    assert kinds[after + 1] is ExecutionKind.PROTECTED
    (position,) = [p for p in ledger["positions"] if p["label"] == repaired[0]]
    assert all(until is not None and until - since <= 2_000 for since, until in position["unprotected"])
    assert findings.clean
