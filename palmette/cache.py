"""Directories in this user's cache: where they are, and how they come to be whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_dir(*parts: str) -> Path:
    """Return the directory `parts` of this program's cache, which need not be there."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.path.abspath(home), "palmette", *parts)


def made_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """Return the directory `target`; if it is not there, `fill` is given an empty one that then takes its name.

    Several processes may do so at once: the first to finish wins. Raises `OSError`, and what `fill` raises, and leaves
    nothing then.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        fill(scratch)
        scratch.chmod(0o755)
        try:
            os.rename(scratch, target)
        except OSError:  # somebody else made it meanwhile
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target
