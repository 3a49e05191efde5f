"""Real processes, killed, stopped and cut off at random while they trade; the venue's own books judge.

    python -m bench.process_chaos [--slices N] [--kills N] [--instances 2] [--seed S] [--json]

A seed draws which fault hits whom and after how many slices; the processes' own timing is not repeatable, so
a seed gives the same plan, not the same run. Exit status 0: everything asked for was done, every fault was
recovered from, and nothing was duplicated, lost, left unprotected or unresolved.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from bench.common import figures, machine
from bench.proxy import Proxy
from cli.demo import Demo, DemoOptions
from cli.mesh_view import MeshView
from cli.supervisor import SERVICES, Supervisor
from shared import streams
from shared.bus import BusUnavailableError
from shared.clock import monotonic_s, utc_now
from shared.errors import MeshError, UnavailableError
from shared.log import configure_log
from shared.messages import EventReported

BUNDLE = Path(__file__).parents[1] / "bundles" / "plumbing"
# Three faults of four are deaths; the others keep a process or its connection alive and useless.
KINDS: Final = {"kill": 12, "terminate": 1, "pause": 1, "cut": 1, "stall": 1}
LASTS_S: Final = {  # around the lease and the time-outs; of a power cut, how much is lost
    "pause": (0.5, 5.0), "cut": (0.2, 5.0), "stall": (0.2, 5.0), "power cut": (0.0, 1.0),
}  # fmt: skip
APART_SLICES: Final = 6  # at most, between two faults
WITHIN_S: Final = 0.4  # after a slice is done: about as long as the next one takes
SERVERS: Final = ("venue", "valkey")
POWER_CUTS: Final = 2
HITS_ACTIVE: Final = 0.75
AT_ONCE: Final = 2  # faults that are not recovered from
BACK_S: Final = 90.0  # a mesh that needs longer has not recovered
POLL_S: Final = 0.02
LOOK_MS: Final = 50
ENVIRONMENT: Final = {
    "GATEWAY_RECONNECT_TRIES": "4"
}  # then it leaves and is started again: delays stay short


@dataclass(frozen=True)
class Asked:
    """What a run shall do."""

    slices: int = 2_000
    kills: int = 300
    instances: int = 1
    seed: int = 1
    power_cuts: bool = False  # Valkey loses what it wrote within the last second
    minutes: float = 90.0
    folder: Path = Path("var/chaos")


@dataclass(frozen=True)
class Fault:
    """What is done to whom."""

    kind: str
    victim: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Recovery:
    """How long a fault was felt, from its end (of a death: from the signal)."""

    fault: Fault
    ready_s: float  # every service says so itself; it speaks every half second
    reconciled_s: float  # and every order that was under way at the fault has ended or is protected
    taken_over_s: float | None  # another instance has the lease


@dataclass
class Chaos:
    """Draws faults, does them, and times the way back."""

    demo: Demo
    proxies: dict[str, Proxy]
    asked: Asked
    recoveries: list[Recovery] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _suffering: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._random = random.Random(self.asked.seed)  # noqa: S311 - repeatable is what it shall be

    @property
    def kills(self) -> int:
        """How many processes were sent SIGKILL."""
        return sum(count for (kind, _), count in self.counts.items() if kind in ("kill", "power cut"))

    async def run(self) -> None:
        """Go on until all that was asked for is done and recovered from; then the demo may stop.

        Raises:
            UnavailableError: the mesh did not come back.
        """
        async with asyncio.TaskGroup() as group:
            while self.kills < self.asked.kills or self.demo.progress.slices < self.asked.slices:
                await self._slices_pass(self._random.randint(0, APART_SLICES))
                await asyncio.sleep(self._random.uniform(0, WITHIN_S))
                fault = await self._draw()
                if fault.victim not in self._suffering:
                    self._suffering.add(fault.victim)
                    group.create_task(self._suffer(fault))
        self.demo.stop.set()

    async def _slices_pass(self, count: int) -> None:
        """Wait until so many more slices are done, and a fault more can be suffered."""
        last = self.demo.progress.slices + count
        await _until(lambda: self.demo.progress.slices >= last and len(self._suffering) < AT_ONCE)

    async def _draw(self) -> Fault:
        """Return a fault; of several instances mostly the active one's, because nobody misses a standby."""
        kinds = {**KINDS, "power cut": POWER_CUTS} if self.asked.power_cuts else KINDS
        (kind,) = self._random.choices(list(kinds), list(kinds.values()))
        servers = () if kind in ("cut", "stall") else SERVERS
        victim = self._random.choice((*SERVICES, *servers)) if kind != "power cut" else "valkey"
        seconds = self._random.uniform(*LASTS_S.get(kind, (0.0, 0.0)))
        hits_active = self._random.random() < HITS_ACTIVE
        if victim in SERVICES and self.asked.instances > 1:
            active = await self._active(victim)
            names = [child.name for child in self.demo.supervisor.instances[victim]]
            standby = self._random.choice([name for name in names if name != active])
            victim = active if hits_active and active else standby
        return Fault(kind, victim, seconds)

    async def _suffer(self, fault: Fault) -> None:
        under_way = self.demo.mesh.unsettled().keys()
        service = _service(fault.victim)
        is_awaited = fault.kind == "kill" and await self._has_standby(fault.victim)
        try:
            await self._do(fault)
        except UnavailableError:
            self._suffering.discard(fault.victim)  # it is being restarted already: another one is drawn
            return
        self.counts[fault.kind, service] += 1
        ended_s, ended_at = monotonic_s(), utc_now()
        taken_over_s = None
        try:
            async with asyncio.timeout(BACK_S):
                if is_awaited:
                    taken_over_s = await self._taken_over(service, ended_at)
                while not await self._all_ready(ended_at):  # noqa: ASYNC110 - they say it elsewhere
                    await asyncio.sleep(POLL_S)
                ready_s = monotonic_s() - ended_s
                await _until(lambda: not under_way & self.demo.mesh.unsettled().keys())
        except TimeoutError:
            raise UnavailableError(f"not recovered from {fault} in {BACK_S:.0f} s") from None
        found = Recovery(fault, ready_s, monotonic_s() - ended_s, taken_over_s)
        self.recoveries.append(found)
        self._suffering.discard(fault.victim)
        _tell(self, found)

    async def _do(self, fault: Fault) -> None:
        """Do it; of what lasts, wait for the end.

        Raises:
            UnavailableError: the victim is not running.
        """
        supervisor = self.demo.supervisor
        match fault.kind:
            case "kill":
                supervisor.signal(fault.victim, signal.SIGKILL)
            case "terminate":
                supervisor.signal(fault.victim, signal.SIGTERM)
            case "pause":
                supervisor.signal(fault.victim, signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                supervisor.signal(fault.victim, signal.SIGCONT)
            case "power cut":
                await self._lose_writes(fault.seconds)
            case _:
                proxy = self.proxies[fault.victim]
                proxy.cut() if fault.kind == "cut" else proxy.stall()
                await asyncio.sleep(fault.seconds)
                proxy.heal()

    async def _lose_writes(self, seconds: float) -> None:
        """Kill Valkey and take from its file what it wrote last: `everysec` promises no more than that."""
        supervisor = self.demo.supervisor
        file = max((supervisor.folder / "valkey" / "appendonlydir").glob("*.incr.aof"))
        kept_bytes = file.stat().st_size
        await asyncio.sleep(seconds)
        supervisor.signal("valkey", signal.SIGSTOP)  # from here on it writes nothing
        os.truncate(file, kept_bytes)
        supervisor.signal("valkey", signal.SIGKILL)

    async def _all_ready(self, since: datetime) -> bool:
        """Whether every service has said since then that it is ready."""
        return all([await self._is_ready(service, since) for service in SERVICES])

    async def _is_ready(self, service: str, since: datetime) -> bool:
        try:
            said = await self.demo.bus.health(service)
        except BusUnavailableError:
            return False
        pids = {str(pid) for pid in self.demo.supervisor.pids(service)}
        is_new = "beat" in said and datetime.fromisoformat(said["beat"]) > since
        return is_new and said["pid"] in pids and said["status"] == "ready"

    async def _active(self, service: str) -> str | None:
        """Return which process is the active instance of a service, as far as it has said."""
        with suppress(BusUnavailableError):
            pid = (await self.demo.bus.health(service)).get("pid")
            for child in self.demo.supervisor.instances[service]:
                if str(child.pid) == pid:
                    return child.name
        return None

    async def _has_standby(self, name: str) -> bool:
        """Whether a process is the active instance, and another one is there to take over."""
        service = _service(name)
        if service not in SERVICES or await self._active(service) != name:
            return False
        others = (child.name for child in self.demo.supervisor.instances[service] if child.name != name)
        return any(self.proxies[other].is_used for other in others)

    async def _taken_over(self, service: str, since: datetime) -> float:
        """Wait until an instance has the lease and the state, and return how long that took."""
        after = streams.milliseconds(since)
        while True:
            with suppress(BusUnavailableError):
                for entry_id, event in await self.demo.bus.history(streams.EVENTS, f"{after}-0"):
                    if isinstance(event, EventReported) and (event.service, event.kind) == (service, "ready"):
                        return (streams.id_parts(entry_id)[0] - after) / 1000
            await asyncio.sleep(POLL_S)

    # --- the result -----------------------------------------------------------------------------

    async def report(self, failures: list[str]) -> dict[str, Any]:
        """Return what was done and what the venue's books say of the streams as they are stored."""
        seen, stored = self.demo.mesh, MeshView()
        while await stored.follow(self.demo.bus, LOOK_MS):
            pass
        changed = [
            entry_id for entry_id, signal in seen.signals.items() if stored.signals.get(entry_id) != signal
        ]
        if changed:
            failures.append(f"{len(changed)} signals are not what they were, the first is {changed[0]}")
        self.demo.mesh = stored
        found, findings = await self.demo.result()
        if self.kills < self.asked.kills or found["slices"] < self.asked.slices:
            failures.append(f"{self.kills} kills in {found['slices']} slices: not what was asked for")
        names = ("slices", "requests", "refused", "fills", "closed_by_stop", "closed_by_target", "restarts")
        zeros = ("duplicates", "lost", "unprotected", "unresolved", "differences")
        taken_over = [r.taken_over_s for r in self.recoveries if r.taken_over_s is not None]
        return {
            "seed": self.asked.seed,
            "instances": self.asked.instances,
            "kills": self.kills,
            "faults": _by_kind(self.counts),
            **{name: found[name] for name in (*names, *zeros)},
            "ready": figures([r.ready_s for r in self.recoveries], "s"),
            "reconciled": figures([r.reconciled_s for r in self.recoveries], "s"),
            "taken over": figures(taken_over, "s") if taken_over else None,
            "ready, by victim": _by_victim(self.recoveries),
            "failures": failures,
            "holds": findings.clean and not failures,
        }


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for is many small things of the demo's
        await asyncio.sleep(POLL_S)


def _service(name: str) -> str:
    """Return whose instance a process is: `gateway` of `gateway-2`."""
    return name.partition("-")[0]


def _by_kind(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    kinds = sorted({kind for kind, _ in counts})
    return {
        kind: {victim: count for (each, victim), count in sorted(counts.items()) if each == kind}
        for kind in kinds
    }


def _by_victim(recoveries: Sequence[Recovery]) -> dict[str, dict[str, Any]]:
    """Return how soon all was ready again after a process was killed."""
    killed: dict[str, list[float]] = {}
    for each in recoveries:
        if each.fault.kind == "kill":
            killed.setdefault(_service(each.fault.victim), []).append(each.ready_s)
    return {victim: figures(times, "s") for victim, times in sorted(killed.items())}


def _tell(chaos: Chaos, found: Recovery) -> None:
    fault, progress = found.fault, chaos.demo.progress
    lasting = f" for {fault.seconds:.1f} s" if fault.seconds else ""
    after_s = monotonic_s() - progress.started_s
    sys.stderr.write(
        f"{after_s:6.0f} s, slice {progress.slices:5d}: {fault.kind} {fault.victim}{lasting}: "
        f"ready after {found.ready_s:.1f} s, reconciled after {found.reconciled_s:.1f} s\n"
    )


@asynccontextmanager
async def started(asked: Asked) -> AsyncIterator[Chaos]:
    """Start the mesh, a proxy between every service and Valkey."""
    proxies: dict[str, Proxy] = {}

    @asynccontextmanager
    async def between(supervisor: Supervisor) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for instances in supervisor.instances.values():
                for child in instances:
                    proxy = await stack.enter_async_context(Proxy.to(supervisor.redis_port))
                    proxies[child.name] = proxy
                    url = f"redis://127.0.0.1:{proxy.port}/0"
                    child.env = {**child.env, **ENVIRONMENT, "REDIS_URL": url}
            yield

    options = DemoOptions(seed=asked.seed, bundle=BUNDLE, folder=asked.folder)
    async with Demo.start(options, instances=asked.instances, before=between) as demo:
        yield Chaos(demo, proxies, asked)


async def measure(asked: Asked) -> dict[str, Any]:
    """Do it all; stop by itself."""
    failures: list[str] = []
    async with started(asked) as chaos:
        try:
            async with asyncio.timeout(asked.minutes * 60), asyncio.TaskGroup() as group:
                group.create_task(chaos.demo.play())
                group.create_task(chaos.run())
        except* MeshError as errors:
            failures += [str(error) for error in errors.exceptions]
        except* TimeoutError:
            failures.append(f"stopped after {asked.minutes:g} minutes")
        return await chaos.report(failures)


def main() -> int:
    """Do as asked and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=Asked.slices, help="at least so many")
    parser.add_argument("--kills", type=int, default=Asked.kills, help="SIGKILLs, at least so many")
    parser.add_argument("--instances", type=int, default=Asked.instances, help="of every service")
    parser.add_argument("--seed", type=int, default=Asked.seed)
    parser.add_argument("--power-cuts", action="store_true", help="Valkey loses its last second, too")
    parser.add_argument("--minutes", type=float, default=Asked.minutes, help="then it stops, done or not")
    parser.add_argument("--folder", type=Path, default=Asked.folder, help="made anew; keeps logs and books")
    parser.add_argument("--json", action="store_true")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    asked = Asked(**given)
    sys.stderr.write(f"seed {asked.seed}\n")
    configure_log("chaos", level="CRITICAL", format="console", folder=None, secrets=())
    result = {"machine": machine(), **asyncio.run(measure(asked))}
    lines = (f"{name:>18}  {value}" for name, value in result.items())
    sys.stdout.write((json.dumps(result) if as_json else "\n".join(lines)) + "\n")
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
