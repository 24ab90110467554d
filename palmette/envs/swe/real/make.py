"""Makes tasks of built projects: tier 4 names the file, tier 5 does not, tier 6 is what a release mended."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from palmette.envs.api import Split, Task
from palmette.envs.swe.real.bugs import Hunt, by_kind
from palmette.envs.swe.real.built import Built
from palmette.envs.swe.real.releases import by_release
from palmette.envs.swe.real.tasks import Unfit, draft_of
from palmette.envs.task import write_task
from palmette.errors import UserError
from palmette.sandbox.api import Host

NAMED, HIDDEN, RELEASE = TIERS = (4, 5, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The tasks of one project, how many candidates were none and why, and how long it took."""

    project: str
    tasks: tuple[Task, ...]
    rejected: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0


async def make_tasks(
    built: Built,
    host: Host,
    out_dir: Path,
    *,
    count: int,
    tiers: Sequence[int],
    seed: int,
    split: Split | None = None,
    on_done: Callable[[Task], None] | None = None,
) -> Made:
    """Write up to `count` tasks of a project below `out_dir`, the tiers in turn; `split` None is that of the project.

    Fewer come of a project in which no more bugs are found. Raises `UserError` for a tier that is none of these.
    """
    if unknown := [tier for tier in tiers if tier not in TIERS] or not tiers:
        raise UserError(f"real projects make tasks of tiers {list(TIERS)}, not {unknown}")
    began_s, tasks = time.monotonic(), list[Task]()
    rng = random.Random(f"{built.label}/{seed}")
    mutated, released = [tier for tier in tiers if tier != RELEASE], RELEASE in tiers
    async with Hunt(host, built) as hunt:
        for candidates, its_tiers in ((by_release(built, rng), [RELEASE] * released), (by_kind(built, rng), mutated)):
            # what a release mended comes first, for it is rare: a share of the tasks, as far as it goes
            most = count if its_tiers is mutated else -(-count // len(tiers))
            async for bug in hunt.bugs(candidates if its_tiers else ()):
                if len(tasks) >= most:
                    break
                tier, number = its_tiers[len(tasks) % len(its_tiers)], len(tasks)
                name = f"swe/{built.project.name}-{seed}-{number:04d}"
                try:
                    draft = draft_of(built, hunt.sealed, bug, tier=tier, name=name, rng=rng, split=split)
                except Unfit as why:
                    hunt.rejected[str(why).partition(":")[0]] += 1
                    continue
                tasks.append(write_task(draft, out_dir / name.replace("/", "-")))
                if on_done:
                    on_done(tasks[-1])
    wall_s = time.monotonic() - began_s
    return Made(project=built.label, tasks=tuple(tasks), rejected=hunt.rejected, wall_s=wall_s)
