"""Everything goes wrong, and every rule holds; deliberate bugs do not get past the auditor."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
import structlog

from shared.log import silence
from shared.messages import Command
from sim.auditor import Rule
from sim.campaign import Part, failures_of, run_part, summary
from sim.chaos import ORDERS_MIN
from sim.faults import HANDS, SLICES_MIN, Fault, FaultKind, Schedule, draw
from sim.loop import VirtualClock
from sim.mutations import MUTATIONS, Mutation
from sim.points import crash_points
from sim.runner import run_schedule, shrink
from sim.setting import MARKETS
from sim.venue import Cut, Trick

SEEDS_A_BLOCK = 4


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    """Log nothing: alarms are expected here, by the thousand."""
    before = structlog.get_config()
    silence()
    yield
    logging.disable(logging.NOTSET)
    structlog.configure(**before)


@pytest.mark.parametrize("block", range(4))
def test_no_schedule_breaks_a_rule(block: int) -> None:
    """A few of the ten thousand that `tradeguard chaos` runs, on every change."""
    part = run_part(range(SEEDS_A_BLOCK * block, SEEDS_A_BLOCK * (block + 1)))
    assert part.failing == {}, "have it again with `tradeguard chaos --schedules 1 --seed <seed>`"
    assert part.too_small == []
    assert part.schedules == SEEDS_A_BLOCK
    assert part.slices >= SLICES_MIN * SEEDS_A_BLOCK
    assert part.orders >= ORDERS_MIN * SEEDS_A_BLOCK


_PENDING_READ = "features shared.runtime.Runtime._handle_pending bus.read_new:before"
_NEW_READ = "executor shared.runtime.Runtime._handle_new bus.read_new:after"
_LIST_SENT = "gateway link.send ProtoOAOrderListReq:after"
WHAT_FAILED_ONCE = {
    "a request was lost with Redis, and refused when it was decided again": Schedule(
        5027,
        2,
        ("notifier",),
        (
            Fault(FaultKind.COMMAND, 8, 0.06, detail=Command.PAUSE),
            Fault(FaultKind.REDIS_OLDER, 8, 0.71, seconds=1.958),
        ),
    ),
    "what came while a gateway stood still was handed over out of order": Schedule(
        9166,
        3,
        (),
        (
            Fault(FaultKind.PAUSE, 16, 0.168, service="gateway", seconds=3.629),
            Fault(
                FaultKind.PAUSE_AT,
                31,
                service="gateway",
                point="gateway link.receive ProtoOASpotEvent:after",
                seconds=0.462,
            ),
        ),
    ),
    "time went on at a venue that said nothing of it": Schedule(
        2027,
        1,
        ("features",),
        (
            Fault(FaultKind.PAUSE, 6, 0.262, service="gateway", seconds=4.316),
            Fault(FaultKind.SILENCE, 17, 0.173, seconds=3.037),
        ),
    ),
    "it was judged before the gateway that stood still could set a stop again": Schedule(
        8642,
        0,
        ("inference", "notifier"),
        (
            Fault(FaultKind.NEWS, 5, 0.329, seconds=2.45, detail="symbol"),
            Fault(
                FaultKind.PAUSE_AT,
                19,
                service="gateway",
                point="gateway services.gateway.outbox.Outbox._publish_first bus.publish:after",
                nth=2,
                seconds=2.027,
            ),
            Fault(FaultKind.PAUSE, 28, 0.5153, service="gateway", seconds=4.7326),
            Fault(FaultKind.BY_HAND, 31, 0.2476, detail=HANDS[2]),
        ),
    ),
    "it was judged before the gateway had told of a closing": Schedule(
        9715,
        3,
        ("gateway",),
        (
            Fault(FaultKind.PAUSE_AT, 17, service="features", point=_PENDING_READ, seconds=0.10821),
            Fault(FaultKind.PAUSE, 17, 0.393494, service="features", seconds=2.443330),
            Fault(FaultKind.DIE, 19, 0.601702, service="notifier", nth=3),
            Fault(FaultKind.DIE, 22, 0.036174, service="features"),
            Fault(FaultKind.REDIS_OLDER, 42, 0.020656, seconds=2.0132),
        ),
    ),
    "an order left while the quote that ended its time was on its way": Schedule(
        204770,
        2,
        ("gateway", "executor"),
        (
            Fault(FaultKind.DIE_AT, 11, service="executor", point=_NEW_READ, seconds=1.9564609566),
            Fault(FaultKind.DISK_FULL, 12, 0.2764123464657533, nth=2, seconds=0.9140421811796557),
        ),
    ),
    "a stop was set and taken away while the gateway stood still, and was not missed": Schedule(
        305894,
        0,
        ("notifier",),
        (
            Fault(FaultKind.DIE, 10, 0.3466767258597428, service="notifier", seconds=5.861657918748348),
            Fault(FaultKind.PAUSE, 27, 0.4053963553475486, "gateway", nth=2, seconds=1.8075570546296138),
            Fault(FaultKind.BY_HAND, 30, 0.21232664795545433, detail=HANDS[2]),
        ),
    ),
    "it was judged before the books were compared that have a position nobody was told of": Schedule(
        304380,
        2,
        (),
        (
            Fault(FaultKind.TRICK, 8, 0.4038468881623312, detail=Trick.LOSE_ALL),
            Fault(FaultKind.BY_HAND, 11, 0.0040328734016840785, nth=3, detail=HANDS[0]),
        ),
    ),
    "it was judged before the books were compared that lack a position whose fill was told late": Schedule(
        309092,
        3,
        (),
        (
            Fault(FaultKind.DIE_AT, 1, service="gateway", point=_LIST_SENT, seconds=3.177580575309573),
            Fault(FaultKind.CUT_ORDER, 1, 0.04458242609883332, detail=Cut.AFTER),
            Fault(FaultKind.TRICK, 22, 0.34493043937314005, seconds=4.969, detail=Trick.CONTRADICT),
            Fault(FaultKind.TRICK, 26, 0.25285265788098626, seconds=3.771518681282914, detail=Trick.DELAY),
        ),
    ),
}


@pytest.mark.parametrize("schedule", WHAT_FAILED_ONCE.values(), ids=WHAT_FAILED_ONCE.keys())
def test_what_failed_once_does_not_fail_again(schedule: Schedule) -> None:
    """Rare: one or two in ten thousand found each of these."""
    assert run_schedule(schedule).findings == []


def test_a_schedule_whose_faults_do_not_come_to_it_has_one_all_the_same() -> None:
    """It would prove nothing."""
    never = Fault(FaultKind.DIE_AT, 0, point="gateway link.receive ProtoOASpotEvent:after", nth=1_000_000)
    outcome = run_schedule(Schedule(1, 0, (), (never,)))
    assert outcome.faults_fired == 1
    assert outcome.findings == []


def test_an_error_that_nobody_catches_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would have gone by, in a callback that no task waits for."""
    monkeypatch.setattr(VirtualClock, "step_wall", lambda *_: 1 / 0)
    outcome = run_schedule(Schedule(1, 0, (), (Fault(FaultKind.CLOCK_STEP, 3, 0.1),)))
    assert [finding.rule for finding in outcome.findings] == [Rule.UNCAUGHT]
    assert "ZeroDivisionError" in outcome.findings[0].text


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_deliberate_bug_is_found(mutation: Mutation) -> None:
    """An auditor that finds nothing proves nothing."""
    assert mutation.shown().findings, f"{mutation.name}: survived"


def test_a_bug_is_found_among_schedules_that_were_not_made_for_it() -> None:
    """As one would be that nobody knows of."""
    (mutation,) = (m for m in MUTATIONS if m.name == "marks are not saved")
    assert mutation.hunt(1, limit=3) is not None


def test_a_failing_schedule_shrinks_to_what_makes_it_fail() -> None:
    """Nobody reads a story of ten faults of which two matter."""
    needed = {FaultKind.DIE, FaultKind.SILENCE}
    faults = tuple(Fault(kind, at) for at, kind in enumerate(FaultKind))
    whole = Schedule(1, 0, ("executor", "notifier"), faults)
    shortest = shrink(
        whole, lambda each: needed <= {f.kind for f in each.faults} and "executor" in each.twins
    )
    assert {fault.kind for fault in shortest.faults} == needed
    assert shortest.twins == ("executor",)


def test_a_failure_is_told_in_words_and_can_be_had_again() -> None:
    """Seed, what was found, the shortest schedule, and what happened in it."""
    (mutation,) = (m for m in MUTATIONS if m.name == "a symbol is never unlocked")
    with mutation.put_in():
        part = run_part(range(3, 4))
        (failure,) = failures_of(part)
    assert failure["seed"] == 3
    assert "locked by nothing" in failure["found"][0]
    assert failure["shortest"][0].startswith("seed 3")
    assert not any(line.startswith("slice") for line in failure["shortest"])  # it needs no fault at all
    assert failure["story"]


def test_seeds_are_named_after_crash_points_in_turn() -> None:
    """So that so many schedules aim at every point, however rare it is."""
    points = sorted(crash_points())
    aimed = {fault.point for seed in range(len(points)) for fault in draw(seed, MARKETS).faults}
    assert set(points) <= aimed


def test_what_is_drawn_is_what_the_seed_says() -> None:
    """A schedule is told by its seed alone."""
    assert draw(17, MARKETS) == draw(17, MARKETS) != draw(18, MARKETS)
    assert draw(17, MARKETS).story()


def test_every_kind_of_fault_has_an_effect() -> None:
    """A fault that never fires tests nothing."""
    for kind in (FaultKind.CLOCK_STEP, FaultKind.GARBAGE, FaultKind.DISK_FULL, FaultKind.GRANT_VOID):
        fault = Fault(kind, 3, 0.1, seconds=0.5, detail="commands" if kind is FaultKind.GARBAGE else "")
        outcome = run_schedule(Schedule(1, 0, (), (fault,)))
        assert (outcome.faults_fired, outcome.findings) == (1, []), kind


def test_the_summary_counts_schedules_by_what_they_broke() -> None:
    """The zeros that are asked for, and a table of every crash point."""
    told = summary(Part(schedules=3), [])
    zeros = (told["duplicates"], told["lost"], told["unprotected"], told["unresolved"], told["failures"])
    assert zeros == (0, 0, 0, 0, [])
    assert told["crash_points"] == len(told["hits"]) == len(crash_points())
    assert told["crash_points_hit"] == 0
