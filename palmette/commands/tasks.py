"""``palmette tasks``: build, check, show and count task directories."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from palmette.commands.interrupt import run_interruptibly
from palmette.commands.projects import build_real
from palmette.envs.api import Split, Task
from palmette.envs.attacks import attacks_on
from palmette.envs.build import build_tasks
from palmette.envs.check import CheckReport, check_tasks
from palmette.envs.importers.names import import_tasks
from palmette.envs.names import domain
from palmette.envs.search.corpus import corpus_drafts
from palmette.envs.swe.real.make import TIERS
from palmette.envs.task import load_steps, load_task, load_tasks, load_whole, write_task
from palmette.errors import UserError
from palmette.progress import Progress
from palmette.sandbox.hosts import open_host


def build(
    name: str,
    out: Path,
    *,
    count: int,
    tiers: Sequence[int],
    split: str,
    seed: int,
    envs: Path | None = None,
    questions: Path | None = None,
) -> None:
    """Generate tasks below `out`: with `envs` of the real projects there, or `questions` over the pages there.

    Raises `UserError` for an unknown domain, tier or split, or one in the way.
    """
    if split not in ("train", "heldout"):
        raise UserError(f"--split {split}: there are two splits, train and heldout")
    source = domain(name)
    if questions is not None and (name != "search" or envs is None):
        raise UserError(f"--questions {questions}: they are for the domain search, with --from and a folder of pages")
    if envs is not None:
        if name == "search":
            _build_corpus(envs, questions, out, count=count, split=cast(Split, split), seed=seed)
            return
        if name != "swe":
            raise UserError(
                f"--from {envs}: real projects make tasks of the domain swe, pages of search, neither of {name}"
            )
        build_real(envs, out, count=count, tiers=tiers or TIERS, split=cast(Split, split), seed=seed)
        return
    with Progress(f"tasks/{name}", count, "tasks") as bar:
        build_tasks(
            name,
            out,
            count=count,
            tiers=tiers or source.tiers,
            split=cast(Split, split),
            seed=seed,
            on_done=lambda _: bar.update(1),
        )
    print(f"wrote {count} {name} tasks ({split}) to {out}; check them with: palmette tasks check {out}")


def _build_corpus(folder: Path, questions: Path | None, out: Path, *, count: int, split: Split, seed: int) -> None:
    made, refused = corpus_drafts(folder, questions, count=count, split=split, seed=seed)
    with Progress("tasks/search", len(made), "tasks") as bar:
        for draft in made:
            write_task(draft, out / draft.name.replace("/", "-"))
            bar.update(1)
    for why in refused:
        print(f"refused: {why}")
    print(
        f"wrote {len(made)} search tasks ({split}) over {folder} to {out}, refused {len(refused)} rows; check them next"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checking:
    """How to check: `quick` leaves out attacks and repetitions, `attacks` adds a directory, `reject` takes the bad."""

    sandbox: str = "namespace"
    concurrency: int = 8
    quick: bool = False
    attacks: Path | None = None
    reject: Path | None = None


def check(directory: Path, how: Checking, *, as_json: bool) -> int:
    """Check every task below `directory` and print those that fail; returns 1 if any does.

    Raises `UserError` when there is no task, and for a directory of attacks or for rejects that will not do.
    """
    if how.reject is not None and how.reject.resolve().is_relative_to(directory.resolve()):
        raise UserError(f"--reject {how.reject} lies in {directory}; rejected tasks must go elsewhere")
    tasks, broken = load_whole(directory)
    reports = run_interruptibly(_check(tasks, how)) if tasks else []
    rows: list[dict[str, Any]] = [_checked(report) for report in reports]
    rows += [
        {"task": path.name, "path": str(path), "ok": False, "reason": why, "trials": []} for path, why in broken.items()
    ]
    bad = [row for row in rows if not row["ok"]]
    if how.reject is not None:
        for row in bad:
            row["moved_to"] = str(set_aside(Path(row["path"]), directory, how.reject))
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        for row in bad:
            print(f"{row['task']}: {row['reason']} ({row.get('moved_to', row['path'])})")
        tried = sum(len(row["trials"]) for row in rows)
        print(
            f"{len(rows) - len(bad)} of {len(rows)} tasks hold: the reference scores 1 and nothing else ({tried} tries)"
        )
    return 1 if bad else 0


def _checked(report: CheckReport) -> dict[str, Any]:
    trials = [asdict(trial) for trial in report.trials]
    where = {"task": report.task.name, "path": str(report.task.path)}
    return where | {"ok": report.ok, "reason": report.reason, "trials": trials}


def set_aside(task: Path, directory: Path, reject: Path) -> Path:
    """Move a task below `reject`, to the place it had below `directory`. Raises `UserError` for one in the way."""
    target = reject / (task.name if task == directory else task.relative_to(directory))
    if target.exists():
        raise UserError(f"{target} exists already; remove it, or choose another directory for what is set aside")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(task, target)
    return target


async def _check(tasks: Sequence[Task], how: Checking) -> list[CheckReport]:
    host = open_host(how.sandbox)
    tried = {d: () if how.quick else attacks_on(d, how.attacks) for d in {task.domain for task in tasks}}
    try:
        with Progress("tasks/check", len(tasks), "tasks") as bar:
            done: list[bool] = []

            def on_done(report: CheckReport) -> None:
                done.append(report.ok)
                bar.update(1, success=sum(done) / len(done))

            return await check_tasks(
                tasks,
                host,
                attacks=tried.__getitem__,
                repeats=1 if how.quick else 3,
                concurrency=how.concurrency,
                on_done=on_done,
            )
    finally:
        await asyncio.shield(host.close())


def import_(form: str, file: Path, out: Path, *, split: str, license: str, clones: Path | None, as_json: bool) -> int:
    """Import a file of tasks and name the rows that are refused; returns 1 if any is, or if there is none at all.

    Raises `UserError` for an unknown format or split, and a file that cannot be read.
    """
    if split not in ("auto", "train", "heldout"):
        raise UserError(f"--split {split}: it is train, heldout, or auto")
    with Progress(f"tasks/{form}", None, "rows") as bar:
        imported = import_tasks(
            form,
            file,
            out,
            split=None if split == "auto" else cast(Split, split),
            license=license,
            clones=clones,
            on_done=lambda: bar.update(1),
        )
    if as_json:
        rows = [{"task": task.name, "path": str(task.path), "split": task.split} for task in imported.tasks]
        print(json.dumps({"tasks": rows, "refused": imported.refused}, indent=1))
    else:
        for why in imported.refused:
            print(f"refused: {why}")
        print(f"wrote {len(imported.tasks)} tasks to {out}, refused {len(imported.refused)} rows; check them next")
    return 1 if imported.refused or not imported.tasks else 0


def show(directory: Path, *, as_json: bool) -> None:
    """Print one task in full, or the list of those below `directory`."""
    if (directory / "task.toml").is_file():
        _show_one(load_task(directory), as_json=as_json)
        return
    tasks = load_tasks(directory)
    if as_json:
        print(json.dumps([_record(task) for task in tasks], indent=1))
        return
    table = Table("task", "domain", "split", "tier", "skills", "directory", box=None, pad_edge=False)
    for task in tasks:
        skills = ", ".join(task.skills)
        table.add_row(*map(escape, (task.name, task.domain, task.split, str(task.tier), skills, str(task.path))))
    Console().print(table)


def _record(task: Task) -> dict[str, Any]:
    known = asdict(task) | {"path": str(task.path)}
    return {name: value for name, value in known.items() if name != "separate_verifier"}


def _show_one(task: Task, *, as_json: bool) -> None:
    has_steps = (task.path / "solution" / "steps.json").is_file()
    steps = load_steps(task) if has_steps else ()
    files = [str(path.relative_to(task.path)) for path in sorted(task.path.rglob("*")) if path.is_file()]
    files = [name for name in files if "/.git/" not in name]
    if as_json:
        plain = [{"tool": s.tool, "arguments": s.arguments, "observation": s.observation} for s in steps]
        print(json.dumps(_record(task) | {"files": files, "steps": plain}, indent=1))
        return
    print(
        f"{task.name}  ({task.domain}, {task.split}, tier {task.tier}; {', '.join(task.skills) or 'no skills named'})"
    )
    print(f"\n{task.instruction}\n")
    print("files:", *files, sep="\n  ")
    print("\nreference solution:" if steps else "\nreference solution: solution/solve.sh")
    for number, step in enumerate(steps, start=1):
        arguments = ", ".join(f"{name}={value!r}" for name, value in step.arguments.items())
        print(f"  {number}. {step.tool}({arguments})")
        for line in step.observation.splitlines()[:8]:
            print(f"       {line}")
    sys.stdout.flush()


def stats(directory: Path, *, as_json: bool) -> None:
    """Print how many tasks there are by domain, split and tier, what they need, and what the two splits share."""
    tasks = load_tasks(directory)
    counts = Counter((task.domain, task.split, task.tier) for task in tasks)
    skills = Counter(skill for task in tasks for skill in task.skills)
    licenses = Counter(task.license or "not named" for task in tasks)
    shared = {what: sorted(_shared(tasks, what)) for what in ("template", "source")}
    if as_json:
        rows = [
            {"domain": d, "split": s, "tier": t, "tasks": n, **_reference(tasks, d, s, t)}
            for (d, s, t), n in sorted(counts.items())
        ]
        told = {"tasks": len(tasks), "by": rows, "skills": dict(skills.most_common()), "licenses": dict(licenses)}
        print(json.dumps(told | {"shared_by_splits": shared}, indent=1))
        return
    table = Table("domain", "split", "tier", "tasks", "steps", "tokens", "pass rate", box=None, pad_edge=False)
    for (name, split, tier), number in sorted(counts.items()):
        measured = _reference(tasks, name, split, tier).values()
        table.add_row(
            escape(name), split, str(tier), str(number), *("-" if m is None else f"{m:.3g}" for m in measured)
        )
    Console().print(table)
    print(f"{len(tasks)} tasks; skills: " + (", ".join(f"{s} {n}" for s, n in skills.most_common()) or "none named"))
    print("licences: " + ", ".join(f"{name} {n}" for name, n in licenses.most_common()))
    for what, names in shared.items():
        if names:
            print(f"train and heldout share {len(names)} {what}s: {', '.join(names[:6])}")


def _shared(tasks: Sequence[Task], what: str) -> set[str]:
    """Return the templates or sources that tasks of both splits have."""
    train, heldout = ({getattr(t, what) for t in tasks if t.split == split} for split in ("train", "heldout"))
    return (train & heldout) - {""}


def _reference(tasks: Sequence[Task], domain: str, split: str, tier: int) -> dict[str, float | None]:
    """Return the means of what is known about the work of some tasks."""
    some = [t.complexity for t in tasks if (t.domain, t.split, t.tier) == (domain, split, tier)]
    means: dict[str, float | None] = {}
    for name in ("steps", "tokens", "pass_rate"):
        known = [value for complexity in some if (value := getattr(complexity, name)) is not None]
        means[name] = sum(known) / len(known) if known else None
    return means
