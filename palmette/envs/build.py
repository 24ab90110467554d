"""Builds directories of tasks: the same seed gives the same tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from palmette.envs.api import Draft, Split, Task
from palmette.envs.names import domain
from palmette.envs.task import write_task
from palmette.errors import UserError


def drafts(name: str, *, count: int, tiers: Sequence[int], split: Split, seed: int) -> list[Draft]:
    """Return `count` different drafts of a domain, the tiers in turn. Raises `UserError` for an unknown tier."""
    source = domain(name)
    unknown = [tier for tier in tiers if tier not in source.tiers]
    if unknown or not tiers:
        raise UserError(f"{name} has no tier {unknown}; it has {list(source.tiers)}")
    rng = random.Random(f"{name}/{split}/{seed}")
    seen: set[tuple[str | bytes, ...]] = set()
    made: list[Draft] = []
    while len(made) < count:
        number = len(made)
        draft = source.draft(rng, tier=tiers[number % len(tiers)], split=split, name=f"{name}/{split}-{number:05d}")
        content = (draft.instruction, *draft.files, *draft.files.values())
        if content not in seen:
            seen.add(content)
            made.append(draft)
    return made


def build_tasks(
    name: str,
    out_dir: Path,
    *,
    count: int,
    tiers: Sequence[int],
    split: Split,
    seed: int,
    on_done: Callable[[Task], None] | None = None,
) -> list[Task]:
    """Write `count` tasks of a domain below `out_dir`, one directory each, and return them.

    Raises `UserError` when a directory is in the way.
    """
    tasks: list[Task] = []
    for draft in drafts(name, count=count, tiers=tiers, split=split, seed=seed):
        tasks.append(write_task(draft, out_dir / draft.name.replace("/", "-")))
        if on_done:
            on_done(tasks[-1])
    return tasks
