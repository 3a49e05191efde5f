"""The official package in an environment of its own, with its own pins: made once, for benches and tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ENVIRONMENT = Path(__file__).parents[1] / "var" / "official-client"
PACKAGES = ("ctrader-open-api==0.9.2", "setuptools<81")  # Twisted 24.3 imports pkg_resources


def official_python() -> str:
    """Return the Python of that environment.

    Raises:
        OSError: there is no place for it.
        subprocess.CalledProcessError: the packages cannot be had.
    """
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    has = subprocess.run([str(python), "-c", "import ctrader_open_api"], check=False, capture_output=True)
    if has.returncode:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return str(python)
