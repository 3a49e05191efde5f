"""What the tests of containers share."""

from __future__ import annotations

import os
import subprocess

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "containers: builds images and runs the mesh in containers")


@pytest.fixture(scope="session")
def engine() -> None:
    """Skip where there is no engine, or where nobody asked for minutes of containers."""
    if not os.environ.get("TRADEGUARD_CONTAINERS"):
        pytest.skip("TRADEGUARD_CONTAINERS is not set: no containers are started")
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, check=False)
    except FileNotFoundError:
        done = None
    if done is None or done.returncode:
        pytest.skip("docker info fails: there is no container engine")
