"""The executor: asset lock, limits, sizing, order requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.executor.handlers import ExecutorHandlers
from services.executor.settings import ExecutorSettings
from shared.bus import Bus, Output
from shared.clock import utc_now
from shared.messages import CommandGiven, ExecutionReported, Meta, PolicyAdopted, SignalEmitted
from shared.runtime import Service, on, run


@asynccontextmanager
async def build(settings: ExecutorSettings, bus: Bus) -> AsyncIterator[Service]:
    """Wire settings to handlers: the only function that knows them all."""
    handlers = ExecutorHandlers(bus, settings.policy())

    async def start() -> None:
        """Say by what is decided from here on, so that nobody has to guess it later."""
        now = utc_now()
        meta = Meta.root(f"{bus.book}:policy:{now.isoformat()}", now)
        said = PolicyAdopted(meta=meta, settings=settings.deciding(), inputs=bus.last_ids())
        await bus.publish([Output(said)])

    yield Service(
        routes=(  # a command is obeyed, and an execution known, before the next slice is decided
            on(CommandGiven, handlers.on_command),
            on(ExecutionReported, handlers.on_execution),
            on(SignalEmitted, handlers.on_signal),
        ),
        state=handlers,
        start=start,
        tasks=(bus.follow_accounts,),
        trouble=handlers.trouble,
    )


if __name__ == "__main__":
    run("executor", build, ExecutorSettings)
