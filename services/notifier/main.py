"""The notifier's process: settings -> adapters -> handlers -> run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from services.notifier.adapters import DiscordOutlet, FileOutlet, RetryPolicy
from services.notifier.handlers import NotifierHandlers, Outlet
from services.notifier.settings import NotifierSettings
from shared.bus import Bus
from shared.contracts import Contract
from shared.messages import EntryRefused, EventReported, ExecutionReported, OrderRequested, SignalEmitted
from shared.runtime import Service, on, run

NICENESS = 10  # an alert can wait some milliseconds for the order that it tells of
DEFER_S = 0.02


@asynccontextmanager
async def build(settings: NotifierSettings, bus: Bus) -> AsyncIterator[Service]:
    """Wire settings to adapters to handlers: the only function that knows them all."""
    async with AsyncExitStack() as doors:
        spare: Outlet = FileOutlet(settings.alerts_dir or settings.log_dir)
        outlet = spare
        if settings.discord_webhook_url:
            discord = DiscordOutlet.open(
                settings.discord_webhook_url.get_secret_value(),
                thread_name=settings.discord_thread_name,
                policy=RetryPolicy(
                    tries_max=settings.tries_max,
                    timeout_s=settings.timeout_s,
                    retry_after_max_s=settings.retry_after_max_s,
                ),
            )
            outlet = await doors.enter_async_context(discord)
        yield wire(settings, bus, outlet, spare)


def wire(settings: NotifierSettings, bus: Bus, outlet: Outlet, spare: Outlet) -> Service:
    """Wire outlets to handlers."""

    async def save(state: bytes) -> None:
        await bus.publish((), state=state)

    async def contracts() -> Mapping[str, Contract]:
        return await bus.contracts()

    handlers = NotifierHandlers(
        outlet,
        spare,
        book=settings.book,
        contracts=contracts,
        save=save,
        may_send=bus.holds_lease,
        queue_max=settings.queue_max,
        drain_grace_s=settings.drain_grace_s,
    )
    routes = (
        on(ExecutionReported, handlers.on_execution),
        on(EventReported, handlers.on_event),
        on(OrderRequested, handlers.on_order),
        on(EntryRefused, handlers.on_order),
        on(SignalEmitted, handlers.on_signal),
    )
    return Service(
        routes=routes,
        state=handlers,
        tasks=(handlers.run_sender,),
        defer_s=DEFER_S,
        trouble=handlers.trouble,
    )


if __name__ == "__main__":
    os.nice(NICENESS)
    run("notifier", build, NotifierSettings)
