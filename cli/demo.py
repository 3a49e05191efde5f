"""`tradeguard demo`: the whole mesh on this machine, trading a simulated market, and the proof behind it.

Time at the venue stands still until a slice is terminal: all signals there, every order ended, every
protection standing. So a run goes as fast as the machine can, and two runs with one seed are the same.
With a speed, the venue's time runs by itself instead.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cli.audit import Findings, audit
from cli.mesh_view import MeshView
from cli.supervisor import SERVICES, Supervisor
from cli.table import LiveTable
from cli.venue_control import VenueControl
from shared import streams
from shared.bus import BusUnavailableError
from shared.clock import monotonic_s
from shared.digest import decision_sha256, signal_sha256
from shared.errors import InputError, UnavailableError
from shared.log import configure_log, get_logger
from shared.messages import ExecutionKind, Verdict
from shared.redis_bus import RedisBus
from shared.settings import DEFAULT_SYMBOLS

log = get_logger("demo")

BOOK = "demo"
M5_MS = 300_000
AFTER_CLOSE_MS = 1_000  # by then every symbol that trades has had its first quote
DEADLINE_MS = 300  # the gateway's: a symbol without a bar is filled in after it
READY_S = 60.0
SLICE_S = 120.0  # a slice that takes longer than this, kills included, is a failure
SETTLE_S = 20.0  # for the orders of the last slice, where the venue's time runs by itself
ARRIVAL_S = 5.0  # from the venue's books to the streams, at the end
POLL_MS = 50
SAMPLE_S = 1.0
RUNNING_FOR_EVER = 10**9


@dataclass(frozen=True)
class DemoOptions:
    """What `tradeguard demo` was asked for."""

    bars: int | None = None  # slices to trade; None: until the market ends or Ctrl-C
    speed: float = 0.0  # 0: as fast as the mesh is done; else so many times real time
    data: Path | None = None  # a folder of bars; None: a random market
    seed: int = 1
    resume: bool = False
    bundle: Path = Path("bundles/plumbing")
    folder: Path = Path("var/demo")
    as_json: bool = False
    book: str = BOOK
    services: tuple[str, ...] = SERVICES
    redis_url: str | None = None  # a server that runs; None: an embedded one
    base: Mapping[str, str] | None = None  # settings to begin with; None: the environment and `.env`
    start: datetime | None = None  # when trading begins; None: after the venue's own history
    until_ms: int | None = None  # close of the last slice, where the venue's time runs by itself


@dataclass
class Progress:
    """How far a run is; what the table shows."""

    slices: int = 0
    close_ms: int = 0
    peak_rss_mb: float = 0.0
    started_s: float = field(default_factory=monotonic_s)
    last_slice_s: float | None = None  # when the last slice of all was seen


Hook = Callable[["Demo"], Awaitable[None]]
Before = Callable[[Supervisor], AbstractAsyncContextManager[None]]


def _nothing(_: Supervisor) -> AbstractAsyncContextManager[None]:
    return nullcontext()


class Demo:
    """One run of the mesh."""

    def __init__(self, options: DemoOptions, supervisor: Supervisor, bus: RedisBus) -> None:
        self.options = options
        self.supervisor = supervisor
        self.bus = bus
        self.venue = VenueControl(supervisor.venue_file)
        self.mesh = MeshView()
        self.progress = Progress()
        self.stop = asyncio.Event()
        self.hook: Hook | None = None  # called whenever something new was seen: tests break things here

    @classmethod
    @asynccontextmanager
    async def start(
        cls, options: DemoOptions, *, instances: int = 1, before: Before = _nothing
    ) -> AsyncIterator[Demo]:
        """Start all processes of a fresh book (or the old one, to resume) and wait until they are ready.

        Args:
            options: what was asked for.
            instances: of every service; one of each is active.
            before: a context entered when the processes have their commands and have not started.
        """
        _check(options)
        if not options.resume:
            shutil.rmtree(options.folder, ignore_errors=True)
        options.folder.mkdir(parents=True, exist_ok=True)
        supervisor = Supervisor(
            options.folder.resolve(),
            options.book,
            environment(options),
            instances=instances,
            redis_url=options.redis_url,
            base=options.base,
        )
        async with before(supervisor):
            try:
                await supervisor.start(options.services)
                async with RedisBus.connect(supervisor.redis_url, options.book, "supervisor") as bus:
                    demo = cls(options, supervisor, bus)
                    try:
                        await demo.wait_ready()
                        yield demo
                    finally:
                        demo.venue.close()
            finally:
                await supervisor.stop()

    async def wait_ready(self) -> None:
        """Wait until every service says that it is ready.

        Raises:
            UnavailableError: not in time; says who is not, and why.
        """
        deadline = monotonic_s() + READY_S
        while True:
            waiting = await self._not_ready()
            if not waiting:
                return
            if self.supervisor.failed.done():
                self.supervisor.failed.result()
            if monotonic_s() > deadline:
                raise UnavailableError(
                    f"not ready in {READY_S:.0f} s: {waiting}; see {self.options.folder}/logs"
                )
            await asyncio.sleep(0.05)

    async def _not_ready(self) -> str:
        try:
            health = {name: await self.bus.health(name) for name in self.options.services}
        except BusUnavailableError as error:
            return str(error)
        waiting = []
        for name, said in health.items():
            mine = said.get("pid") in {str(pid) for pid in self.supervisor.pids(name)}
            if not mine or said.get("status") != "ready":
                waiting.append(
                    f"{name} ({said.get('detail') or said.get('status', 'silent') if mine else 'starting'})"
                )
        return ", ".join(waiting)

    # --- playing --------------------------------------------------------------------------------

    async def play(self) -> None:
        """Trade the asked number of slices.

        Raises:
            UnavailableError: a slice did not become terminal in time; says what is missing.
        """
        wanted = self.options.bars or RUNNING_FOR_EVER
        sampler = asyncio.create_task(self._sample())
        try:
            while self.progress.slices < wanted and not self.stop.is_set():
                if self.options.speed:
                    await self._follow_clock()
                    if self._is_over():
                        return
                elif not await self._play_slice() or self._is_over():
                    return
        finally:
            sampler.cancel()

    async def _play_slice(self) -> bool:
        """Step the venue over the next close and wait until all that follows is done. False: no data left."""
        close_ms = self._next_close(await self.venue.state())
        if close_ms is None:
            return False
        await self.before_close(close_ms)
        state = await self.venue.step(close_ms + AFTER_CLOSE_MS)
        # The gateway closes a slice when all symbols have moved on, or by the venue's stamps.
        while not all(state["next_bar_quotes"].values()) and state["last_stamp_ms"] < close_ms + DEADLINE_MS:
            if state["next_quote_ms"] is None:
                return False
            state = await self.venue.step(state["next_quote_ms"])
        await self._until_terminal(close_ms)
        self.progress.slices += 1
        self.progress.close_ms = close_ms
        return True

    async def before_close(self, close_ms: int) -> None:
        """Nothing; a benchmark lets the bar's own quotes pass first, and waits."""

    def _next_close(self, state: dict[str, Any]) -> int | None:
        """Return the close of the slice that has begun, or of the next one (weekend); None: no data left."""
        close_ms: int = state["time_ms"] // M5_MS * M5_MS + M5_MS
        next_ms: int | None = state["next_quote_ms"]
        # a fresh venue stands at the end of a bar that only its history shows
        begun = any(state["next_bar_quotes"].values()) or self.mesh.is_fresh
        if next_ms is None or begun:
            return close_ms if next_ms is not None else None
        return max(close_ms, next_ms // M5_MS * M5_MS + M5_MS)

    async def _until_terminal(self, close_ms: int) -> None:
        deadline = monotonic_s() + SLICE_S
        while True:
            if self.supervisor.failed.done():
                self.supervisor.failed.result()
            missing = self.mesh.missing_of(self.options.book, close_ms, len(DEFAULT_SYMBOLS))
            unsettled = self.mesh.unsettled()
            if not missing and not unsettled:
                return
            if not missing and all(status is ExecutionKind.ACCEPTED for status in unsettled.values()):
                # orders are filled by the next quote: let one pass, and see what it did
                state = await self.venue.state()
                if state["open_orders"] and state["next_quote_ms"] is not None:
                    await self.venue.step(state["next_quote_ms"])
            if monotonic_s() > deadline:
                raise UnavailableError(
                    f"slice {close_ms} is not done in {SLICE_S:.0f} s: {missing} {unsettled}"
                )
            await self._follow()

    async def _follow(self) -> None:
        try:
            await self.mesh.follow(self.bus, POLL_MS)
        except BusUnavailableError:
            await asyncio.sleep(POLL_MS / 1000)
        if self.hook is not None:
            await self.hook(self)

    async def _follow_clock(self) -> None:
        """The venue's time runs by itself: count the slices whose signals are all there."""
        await self._follow()
        live = Counter(s.close_time for s in self.mesh.signals.values() if s.live)
        self.progress.slices = sum(count == len(DEFAULT_SYMBOLS) for count in live.values())
        self.progress.close_ms = max((streams.milliseconds(at) for at in live), default=0)

    def _is_over(self) -> bool:
        """Whether the last slice was seen, and nothing more is to come of any order, or not in time."""
        if f"{self.options.until_ms}-{len(DEFAULT_SYMBOLS) - 1}" not in self.mesh.signals:
            return False
        self.progress.last_slice_s = self.progress.last_slice_s or monotonic_s()
        return not self.mesh.unsettled() or monotonic_s() - self.progress.last_slice_s > SETTLE_S

    async def _sample(self) -> None:
        while True:
            self.progress.peak_rss_mb = max(self.progress.peak_rss_mb, sum(self.supervisor.rss_mb().values()))
            await asyncio.sleep(SAMPLE_S)

    # --- the result -----------------------------------------------------------------------------

    async def result(self) -> tuple[dict[str, Any], Findings]:
        """Return what the run gave, and what the venue's books say of it."""
        findings = await self._audited()
        traded = self.mesh.after_warm_up()
        signals = [(i, streams.encode(s)) for i, s in self.mesh.signals.items()]
        decisions = [streams.encode(d) for d in await self._decisions()]
        return {
            "slices": self.progress.slices,
            "signals": len(traded),
            "requests": len(self.mesh.requests),
            "refused": len([r for r in self.mesh.refusals.values() if r.reason != "STALE_SLICE"]),
            "blocked": sum(s.verdict is Verdict.BLOCK for s in traded),
            "fills": findings.fills,
            "fills_by_symbol": findings.fills_by_symbol,
            "fills_by_side": findings.fills_by_side,
            "closed_by_stop": findings.closed_by_stop,
            "closed_by_target": findings.closed_by_target,
            "duplicates": findings.duplicates,
            "lost": findings.lost,
            "unprotected": findings.unprotected,
            "unresolved": findings.unresolved,
            "differences": findings.differences,
            "signal_sha256": signal_sha256(signals),
            "decision_sha256": decision_sha256(decisions),
            **self._latency(),
            "rss_mb": round(self.progress.peak_rss_mb, 1),
            "restarts": {name: child.restarts for name, child in self.supervisor.children.items()},
            "seconds": round(monotonic_s() - self.progress.started_s, 1),
        }, findings

    async def _audited(self) -> Findings:
        """Compare the books with the streams; what is on its way between them has a moment to arrive."""
        deadline = monotonic_s() + ARRIVAL_S
        while True:
            with suppress(BusUnavailableError):
                await self.mesh.follow(self.bus, POLL_MS)
            findings = audit(await self.venue.ledger(), self.mesh, self.options.book)
            if findings.clean or monotonic_s() > deadline:
                return findings

    async def _decisions(self) -> list[Any]:
        return [message for _, message in await self.bus.history(streams.ORDERS)]

    def _latency(self) -> dict[str, Any]:
        """Return close to order in ms, and the median share of each phase, as the gateway measured them."""
        sent = [e.latency_ms for events in self.mesh.executions.values() for e in events if e.latency_ms]
        totals = sorted(times["total"] for times in sent)
        if not totals:
            return {"close_to_order_ms": None, "phases": None}
        phases = {
            name: round(statistics.median(t[name] for t in sent), 3) for name in sent[0] if name != "total"
        }
        return {
            "close_to_order_ms": {
                "p50": _quantile(totals, 0.5),
                "p95": _quantile(totals, 0.95),
                "p99": _quantile(totals, 0.99),
                "max": totals[-1],
            },
            "phases": phases,
        }


def _quantile(ordered: list[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def _check(options: DemoOptions) -> None:
    if options.data is not None and not options.data.exists():
        raise InputError(f"--data {options.data}: no such folder; give one with a file of bars per symbol")
    if not (options.bundle / "manifest.json").exists():
        raise InputError(f"--bundle {options.bundle}: no manifest.json there; give a bundle's folder")
    if options.resume and not options.folder.exists():
        raise InputError(f"--resume: there is no earlier run in {options.folder}")


def environment(options: DemoOptions) -> dict[str, str]:
    """Return the settings that the demo gives its processes."""
    env = {
        "VENUE_SPEED": str(options.speed),
        "VENUE_SEED": str(options.seed),
        "GATEWAY_VENUE_SPEED": str(options.speed),
        "GATEWAY_RECONNECT_FIRST_S": "0.25",  # the venue is on this machine
        "GATEWAY_RECONNECT_TRIES": "8",
        "GATEWAY_KEEP_DAYS": "36500",  # the market's days pass fast, and a replay wants them all
        "CT_HOST_TYPE": "sim",
        # the venue's limits hold in real time; in the market's time, which runs faster, we stay below them
        "VENUE_REQUESTS_PER_S": "100000",
        "VENUE_HISTORY_REQUESTS_PER_S": "1000",
        "INFERENCE_BUNDLE_DIR": str(options.bundle.resolve()),
        # the simulated market quotes 12 to 30 times a bar; a real one many times a second
        "EXECUTOR_QUOTE_AGE_MAX_S": "30",
        # models that are made to trade often lose their costs: what would end that for good is wide
        "EXECUTOR_DRAWDOWN_FRACTION_MAX": "1",
        "EXECUTOR_LOSING_STREAK_MAX": "1000",
    }
    if options.start is not None:
        env["VENUE_START"] = options.start.isoformat()
    if options.data is not None:
        env["VENUE_DATA_DIR"] = str(options.data.resolve())
    return env


async def _run(options: DemoOptions) -> int:
    loop = asyncio.get_running_loop()
    server = "Valkey, " if options.redis_url is None else ""
    sys.stderr.write(f"starting {server}the simulated venue and {len(options.services)} services\n")
    async with Demo.start(options) as demo:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, demo.stop.set)
        _say_hello(demo)
        async with LiveTable.shown(demo, visible=not options.as_json and sys.stderr.isatty()):
            playing = asyncio.create_task(demo.play())
            stopped = asyncio.create_task(demo.stop.wait())
            await asyncio.wait({playing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            with suppress(asyncio.CancelledError):
                if demo.stop.is_set():
                    playing.cancel()
                await playing
        result, findings = await demo.result()
    complete = options.bars is None or demo.stop.is_set() or result["slices"] == options.bars
    print(json.dumps(result) if options.as_json else _readable(result))
    return 0 if findings.clean and complete else 1


def _say_hello(demo: Demo) -> None:
    options = demo.options
    name = json.loads((options.bundle / "manifest.json").read_text()).get("name", options.bundle.name)
    took = monotonic_s() - demo.progress.started_s
    note = ", made to trade often, not to earn" if name == "plumbing" else ""
    server = f"-p {demo.supervisor.redis_port}" if options.redis_url is None else "-u $REDIS_URL"
    sys.stderr.write(
        f"ready. models: {name}{note}. Look into the streams, or use the kill switch:\n"
        f"  redis-cli {server} XRANGE 'tg:{{{options.book}}}:signals' - + COUNT 1\n"
        f"  export BOOK={options.book} GATEWAY_HALT_FILE={options.folder}/HALT"
        f"{f' REDIS_URL={demo.supervisor.redis_url}' if options.redis_url is None else ''}\n"
        "  tradeguard status; tradeguard flatten\n"
    )
    log.info("demo.ready", seconds=round(took, 1))


def _readable(result: dict[str, Any]) -> str:
    lines = [f"{name:>18}  {value}" for name, value in result.items() if name != "differences"]
    return "\n".join([*lines, *(f"  ! {sentence}" for sentence in result["differences"])])


def run(options: DemoOptions) -> int:
    """Run the demo; exit status 0 only if the venue's books and the streams agree."""
    configure_log("demo", level="WARNING", format="console", folder=None, secrets=())
    return asyncio.run(_run(options))
