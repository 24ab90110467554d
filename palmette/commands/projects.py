"""``palmette tasks repo`` and ``palmette tasks build swe --from``: real projects, and tasks of their bugs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from palmette.commands.interrupt import run_interruptibly
from palmette.envs.api import Split
from palmette.envs.split import split_of
from palmette.envs.swe.real.build import build_project
from palmette.envs.swe.real.built import Built, load_all, save
from palmette.envs.swe.real.make import make_tasks
from palmette.errors import UserError
from palmette.progress import Progress
from palmette.sandbox.api import SandboxError
from palmette.sandbox.hosts import open_host


def repo(whats: Sequence[str], out: Path, *, sandbox: str, as_json: bool) -> int:
    """Build the environments of projects below `out`, and name those that cannot be built; returns 1 if any cannot."""
    done = run_interruptibly(_repo(whats, out, sandbox))
    failed = {what: why for what, why in done.items() if isinstance(why, str)}
    if as_json:
        print(json.dumps({w: b if isinstance(b, str) else asdict(b.report) for w, b in done.items()}, indent=1))
        return 1 if failed else 0
    for what, built in done.items():
        if isinstance(built, str):
            print(f"{what}: {built}")
            continue
        said = built.report
        print(
            f"{built.label}: {built.lock.runtime}, {len(built.lock.packages)} packages; {said.collected} tests "
            f"collected ({said.share:.0%}), {said.stable} pass alike every time, {said.run_s:g} s ({out / built.label})"
        )
    print(
        f"built {len(done) - len(failed)} of {len(done)} projects; tasks of their bugs: "
        f"palmette tasks build swe --tier 4 --from {out} --out DIR"
    )
    return 1 if failed else 0


async def _repo(whats: Sequence[str], out: Path, sandbox: str) -> dict[str, Built | str]:
    host = open_host(sandbox)
    done: dict[str, Built | str] = {}
    try:
        with Progress("tasks/repo", len(whats), "projects") as bar:
            for what in whats:
                try:
                    done[what] = built = await build_project(what, host)
                    save(built, out)
                except (UserError, SandboxError) as error:
                    done[what] = str(error)
                bar.update(1)
    finally:
        await asyncio.shield(host.close())
    return done


def build_real(envs: Path, out: Path, *, count: int, tiers: Sequence[int], split: Split, seed: int) -> None:
    """Write tasks of the projects built below `envs` that are of this split; all tasks of a project are of one split.

    Raises `UserError` when there is none, or an unknown tier.
    """
    projects = load_all(envs)
    chosen = [built for built in projects if split_of(built.project.name) == split]
    if not chosen:
        raise UserError(
            f"{envs}: its {len(projects)} projects are all of the other split than {split}; build more there"
        )
    run_interruptibly(_build_real(chosen, out, count, tiers, seed))


async def _build_real(chosen: Sequence[Built], out: Path, count: int, tiers: Sequence[int], seed: int) -> None:
    host, rejected, written = open_host("namespace"), Counter[str](), 0
    try:
        with Progress("tasks/swe", count, "tasks") as bar:
            for number, built in enumerate(chosen):
                share = -(-(count - written) // (len(chosen) - number))
                if share <= 0:
                    break
                made = await make_tasks(
                    built, host, out, count=share, tiers=tiers, seed=seed, on_done=lambda _: bar.update(1)
                )
                written += len(made.tasks)
                rejected += made.rejected
    finally:
        await asyncio.shield(host.close())
    print(f"wrote {written} of {count} swe tasks to {out}; check them with: palmette tasks check {out}")
    if rejected:
        print("no tasks: " + ", ".join(f"{why} {number}" for why, number in rejected.most_common()))
