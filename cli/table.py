"""The demo's live table: where every process is, and what was traded so far."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from shared import streams
from shared.clock import monotonic_s
from shared.messages import ExecutionKind, Verdict

if TYPE_CHECKING:
    from cli.demo import Demo

REFRESH_S = 0.5


class LiveTable:
    """Draws a running demo on stderr."""

    @classmethod
    @asynccontextmanager
    async def shown(cls, demo: Demo, *, visible: bool) -> AsyncIterator[None]:
        """Show the table while the context is open; on no terminal, show nothing."""
        if not visible:
            yield
            return
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
            task = asyncio.create_task(cls._draw(demo, live))
            try:
                yield
            finally:
                task.cancel()

    @staticmethod
    async def _draw(demo: Demo, live: Live) -> None:
        while True:
            live.update(render(demo), refresh=True)
            await asyncio.sleep(REFRESH_S)


def render(demo: Demo) -> Group:
    """Return the picture of a demo as it is now."""
    progress, mesh = demo.progress, demo.mesh
    elapsed = max(monotonic_s() - progress.started_s, 0.001)
    at = f"{streams.from_milliseconds(progress.close_ms):%Y-%m-%d %H:%M}" if progress.close_ms else "-"
    done = Counter(e.kind for events in mesh.executions.values() for e in events)
    traded = Table(
        title=f"market time {at} UTC, {progress.slices / elapsed:.1f} slices/s", title_justify="left"
    )
    for name in ("slices", "signals", "blocked", "refused", "requests", "fills", "closed"):
        traded.add_column(name, justify="right")
    traded.add_row(
        str(progress.slices),
        str(len(mesh.signals)),
        str(sum(s.verdict is Verdict.BLOCK for s in mesh.signals.values())),
        str(len(mesh.refusals)),
        str(len(mesh.requests)),
        str(done[ExecutionKind.FILLED]),
        str(done[ExecutionKind.CLOSED]),
    )
    memory = demo.supervisor.rss_mb()
    processes = Table()
    for name in ("process", "pid", "restarts", "MB"):
        processes.add_column(name, justify="left" if name == "process" else "right")
    for name, child in demo.supervisor.children.items():
        processes.add_row(name, str(child.pid or "-"), str(child.restarts), f"{memory.get(name, 0):.0f}")
    parts = [processes, traded]
    if demo.options.bars:
        return Group(*parts, ProgressBar(total=demo.options.bars, completed=progress.slices))
    return Group(*parts)
