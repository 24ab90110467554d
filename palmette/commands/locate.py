"""Finds what a word on the command line means: a run, or the model of a run."""

from __future__ import annotations

from pathlib import Path

from palmette.run import RunDir


def find_run(name: str, runs: Path) -> RunDir:
    """Return the run called `name` in `runs`, or at the path `name`. Raises `UserError` naming the nearest run."""
    path = Path(name)
    if (path / "config.toml").is_file() or path.is_absolute() or len(path.parts) > 1:
        return RunDir.open(path)
    return RunDir.open(runs / name)
