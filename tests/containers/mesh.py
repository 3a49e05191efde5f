"""The mesh of docker-compose.yml as a project of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SERVICES = ("gateway", "features", "inference", "executor", "notifier")
ALL = ("redis", "venue", *SERVICES)
PASSWORD = "made-for-this-test"  # noqa: S105 - of a Redis that nobody else reaches
AUDIT = Path(__file__).with_name("audit_inside.py")


class Mesh:
    """One Compose project."""

    def __init__(self, project: str, bundles: Path | None = None, **env: str) -> None:
        self.project = project
        kept = {
            name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or "PIP" in name
        }
        self.env = {**kept, "REDIS_PASSWORD": PASSWORD, "COMPOSE_ENV_FILES": "/dev/null", **env}

    def compose(self, *words: str, check: bool = True, timeout_s: float = 120) -> str:
        """Run `docker compose` in this project; return what it printed."""
        done = subprocess.run(
            ["docker", "compose", "-p", self.project, "--project-directory", str(ROOT), *words],
            cwd=ROOT, env=self.env, text=True, timeout=timeout_s,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    def down(self) -> None:
        """Stop and forget everything, volumes too."""
        self.compose("--profile", "cli", "down", "--volumes", "--timeout", "5", check=False)

    def ids(self, service: str) -> list[str]:
        """Return the containers of a service, the stopped ones too."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        """Return everything that the engine knows of a container."""
        told = subprocess.run(["docker", "inspect", container], capture_output=True, check=True).stdout
        return dict(json.loads(told)[0])

    def health(self, service: str) -> list[str]:
        """Return the health of each container of a service; its state where it does not run."""
        states = [self.inspect(container)["State"] for container in self.ids(service)]
        return [s["Health"]["Status"] if s["Running"] else s["Status"] for s in states]

    def crash(self, container: str) -> None:
        """SIGKILL a container's process past the engine: to it that is a crash, so its policy restarts it."""
        os.kill(self.inspect(container)["State"]["Pid"], signal.SIGKILL)

    def until_healthy(self, *services: str, timeout_s: float = 60) -> float:
        """Wait until all containers of these services are healthy; return how long it took."""
        started = time.monotonic()
        while time.monotonic() < started + timeout_s:
            told = {service: self.health(service) for service in services}
            if all(states and set(states) == {"healthy"} for states in told.values()):
                return time.monotonic() - started
            time.sleep(0.5)
        raise AssertionError(f"not healthy in {timeout_s} s: {told}\n{self.compose('logs', '--tail', '20')}")

    def redis(self, *words: str) -> str:
        """Ask the mesh's Redis."""
        return self.compose("exec", "-T", "redis", "redis-cli", *words).strip()

    def audit(self) -> dict[str, Any]:
        """Compare the venue's books with the streams, at the first moment when nothing is under way."""
        (venue,) = self.ids("venue")
        done = subprocess.run(
            ["docker", "run", "--rm", "--interactive", "--entrypoint", "python",
             "--network", f"container:{venue}", "--volumes-from", f"{venue}:ro", "--env", "BOOK=demo",
             "--env", f"REDIS_URL=redis://:{PASSWORD}@redis:6379/0", "tradeguard-cli", "-"],
            input=AUDIT.read_text(), text=True, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))
