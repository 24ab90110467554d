"""Which Python a Python agent gets: the one that runs this, or a newer one of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from palmette.errors import UserError

_NEWEST = 20  # minor versions to look for
_SHELVES = (".pyenv/versions/*/bin", ".local/share/uv/python/*/bin", ".local/share/mise/installs/python/*/bin")


def interpreter(least: str = "") -> Path:
    """Return a Python of at least version `least` ("3.12"): our own if it is, else the oldest that is found and runs.

    It is looked for on PATH and where pyenv, uv and mise keep theirs. Raises `UserError` when there is none.
    """
    minor = int(least.partition(".")[2] or 0)
    if sys.version_info >= (3, minor):
        return Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = _newer(minor, os.environ.get("PATH", ""), Path.home())
    if found is None:
        raise UserError(
            f"no Python {least} or newer on this machine; put one on PATH, e.g. with 'uv python install {least}'"
        )
    return found


@cache
def _newer(minor: int, path: str, home: Path) -> Path | None:
    for name in (f"python3.{each}" for each in range(minor, _NEWEST + 1)):
        candidates = [shutil.which(name, path=path), *(shelf / name for each in _SHELVES for shelf in home.glob(each))]
        for candidate in filter(None, candidates):
            if Path(candidate).exists() and _runs(candidate):  # a shim of pyenv may be there and lead nowhere
                return Path(candidate).resolve()
    return None


def _runs(python: str | Path) -> bool:
    argv = [str(python), "-c", "import venv, ensurepip"]
    try:
        return subprocess.run(argv, capture_output=True, check=False, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
