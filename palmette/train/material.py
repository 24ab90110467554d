"""What a run learns from: checked tasks, demonstrations of them, and rollouts of the experts. Made once, then read."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from palmette.envs.api import Split, Task
from palmette.envs.build import build_tasks
from palmette.envs.check import check_tasks
from palmette.envs.task import load_task
from palmette.errors import UserError
from palmette.evaluate.metrics import PASS
from palmette.progress import Progress
from palmette.rollout.casting import cast
from palmette.rollout.demonstrate import demonstrate
from palmette.rollout.record import load_rollouts
from palmette.run import RunDir, write_atomic
from palmette.sandbox.api import SandboxError
from palmette.scaffolds.loop import ToolLoop
from palmette.train.curriculum import Intent
from palmette.train.recipe import Recipe
from palmette.train.recordings import refuse_inexact
from palmette.train.samples import Sample, from_demonstration, from_tree
from palmette.train.workplace import Workplace
from palmette.trajectory.store import TreeStore

SPLITS: tuple[Split, ...] = ("train", "heldout")
_CHECKS = 8  # sandboxes at once while checking and demonstrating


async def ready_tasks(recipe: Recipe, run: RunDir, place: Workplace) -> tuple[dict[str, dict[str, list[Task]]], int]:
    """Return domain -> split -> tasks that passed their check, and how many did not.

    Built and checked once: ``tasks/checked.json`` names those that passed. Raises `UserError` when a domain has none.
    """
    root = run.path / "tasks"
    checked = root / "checked.json"
    if not checked.is_file():
        shutil.rmtree(root, ignore_errors=True)  # half-built by an attempt that was interrupted
        await _build(recipe, root, checked, place)
    record = json.loads(checked.read_text())
    tasks = {
        domain: {split: [load_task(root / path) for path in record["passed"][domain][split]] for split in SPLITS}
        for domain in recipe.domains
    }
    for domain, splits in tasks.items():
        for split, kept in splits.items():
            if not kept:
                reason = next(iter(record["failed"].values()), "none was built")
                raise UserError(f"no {split} task of {domain} passed its check ({reason}); see 'palmette doctor'")
    return tasks, len(record["failed"])


async def demonstrations(
    run: RunDir, domain: str, tasks: Sequence[Task], place: Workplace, intents: Sequence[Intent] = ()
) -> list[Sample]:
    """Return one demonstration of each task, by the domain's scaffolds and told in `intents`; kept in the run.

    A command-line agent writes its own prompts, so where one would drive, the plain loop is shown.
    """
    path = run.path / "demonstrations" / f"{domain}.npz"
    if not path.is_file():
        gate, casting = asyncio.Semaphore(_CHECKS), cast(place.crew, intents=intents)
        with Progress(f"demonstrations/{domain}", len(tasks), "tasks") as bar:

            async def one(number: int, task: Task) -> tuple[np.ndarray, np.ndarray]:
                part, driver = casting(task, number, 0)
                style = driver.style if isinstance(driver, ToolLoop) else None
                async with gate:
                    shown = await demonstrate(part, place.renderer, place.host, style)
                bar.update(1)
                return np.asarray(shown.token_ids, np.int32), np.asarray(shown.sampled, bool)

            try:
                pairs = await asyncio.gather(*(one(number, task) for number, task in enumerate(tasks)))
            except SandboxError as error:
                raise UserError(f"the {domain} tasks cannot be demonstrated: {error}; see 'palmette doctor'") from error
        _write_sequences(path, pairs)
    return [from_demonstration(ids.tolist(), sampled.tolist()) for ids, sampled in _read_sequences(path)]


def cold_start_samples(run: RunDir, recipe: Recipe) -> list[Sample]:
    """Return what the experts sampled and solved in the later half of their reinforcement learning, all domains."""
    later = recipe.rl.steps // 2
    return [sample for domain in recipe.domains for sample in solved_samples(run, domain, after=later)]


def solved_samples(run: RunDir, domain: str, *, after: int, until: int | None = None) -> list[Sample]:
    """Return what an expert sampled and solved in its steps past `after`, up to `until`; equal sequences once."""
    found: dict[bytes, Sample] = {}
    for rollout, metadata in load_rollouts(TreeStore(run.path / "trees"), stage=f"rl/{domain}"):
        refuse_inexact(metadata, run.path)
        wanted = after < metadata["step"] and (until is None or metadata["step"] <= until)
        if wanted and rollout.reward is not None and rollout.reward >= PASS:
            found |= {sample.token_ids_T.tobytes(): sample for sample in from_tree(rollout.tree)}
    return list(found.values())


async def _build(recipe: Recipe, root: Path, checked: Path, place: Workplace) -> None:
    total = sum(recipe.tasks[d].train + recipe.tasks[d].heldout for d in recipe.domains)
    record: dict[str, dict] = {"passed": {}, "failed": {}}
    with Progress("tasks", total, "tasks") as bar:
        for domain in recipe.domains:
            record["passed"][domain] = {}
            for split in SPLITS:
                config = recipe.tasks[domain]
                built = await asyncio.to_thread(
                    build_tasks,
                    domain,
                    root / domain / split,
                    count=config.train if split == "train" else config.heldout,
                    tiers=config.tiers if split == "train" else config.heldout_tiers or config.tiers,
                    split=split,
                    seed=recipe.seed,
                )
                reports = await check_tasks(
                    built, place.host, grader=place.grader, concurrency=_CHECKS, on_done=lambda _: bar.update(1)
                )
                passed = [report.task for report in reports if report.ok]
                record["passed"][domain][split] = [str(task.path.relative_to(root)) for task in passed]
                record["failed"] |= {report.task.name: report.reason for report in reports if not report.ok}
    write_atomic(checked, json.dumps(record, indent=1))


def _write_sequences(path: Path, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    sink = io.BytesIO()
    np.savez_compressed(
        sink,
        lengths=np.array([len(ids) for ids, _ in pairs], np.int64),
        token_ids=np.concatenate([ids for ids, _ in pairs]),
        sampled=np.concatenate([sampled for _, sampled in pairs]),
    )
    write_atomic(path, sink.getvalue())


def _read_sequences(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    with np.load(path, allow_pickle=False) as file:
        ends = np.cumsum(file["lengths"])[:-1]
        return list(zip(np.split(file["token_ids"], ends), np.split(file["sampled"], ends), strict=True))
