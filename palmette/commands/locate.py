"""Finds what a word on the command line means: a run, or a model."""

from __future__ import annotations

import tomllib
from pathlib import Path

from palmette.errors import UserError, suggest
from palmette.model.load import resolve_model
from palmette.run import RunDir


def find_run(name: str, runs: Path) -> RunDir:
    """Return the run called `name` in `runs`, or at the path `name`. Raises `UserError` naming the nearest run."""
    path = Path(name)
    if (path / "config.toml").is_file() or len(path.parts) > 1:
        return RunDir.open(path)
    return RunDir.open(runs / name)


def find_model(name: str, runs: Path) -> Path:
    """Return the model directory that `name` means.

    ``palmette:base``, a model directory, ``RUN`` (its student, or what it made last) or ``RUN:MODEL``, such as
    ``demo:expert-swe``. Raises `UserError` naming what there is.
    """
    if name.startswith("palmette:") or (Path(name) / "config.json").is_file():
        return resolve_model(name)
    run_name, colon, model_name = name.partition(":")
    if (Path(name).is_dir() and not (Path(name) / "config.toml").is_file()) or name in (".", ".."):
        return resolve_model(name)  # a directory that is meant as a model; the loader says what it lacks
    try:
        run = find_run(run_name, runs)
    except UserError as error:
        raise UserError(f"no model {name}: it is neither a directory with config.json nor a run ({error})") from None
    found = [*(run.path / "models").glob("*/config.json"), *run.path.glob("model/config.json")]
    made = {path.parent.name: path.parent for path in sorted(found, key=_age)}
    if not made:
        raise UserError(f"{run.path} has no model yet (it is {run.state}); wait for its first stage, or resume it")
    if not colon:
        return made.get("student") or list(made.values())[-1]
    if model_name not in made:
        raise UserError(f"{run.path} has no model '{model_name}'{suggest(model_name, made)} (it has {', '.join(made)})")
    return made[model_name]


def find_team(name: str, runs: Path) -> RunDir | None:
    """Return the run of kind ``marl`` that `name` means; None if it means something else, or nothing."""
    for path in (Path(name), runs / name):
        try:
            kind = tomllib.loads((path / "config.toml").read_text(encoding="utf-8")).get("kind")
        except (OSError, ValueError):
            continue
        return RunDir.open(path) if kind == "marl" else None
    return None


def _age(path: Path) -> float:
    return path.stat().st_mtime
