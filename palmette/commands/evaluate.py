"""``palmette eval``: a model attempts tasks, and its scores are printed."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from palmette.chat.template import Renderer
from palmette.commands.engine import engine_of
from palmette.commands.interrupt import run_interruptibly
from palmette.commands.locate import find_model
from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.envs.build import build_tasks
from palmette.envs.grade import Grader
from palmette.envs.names import DOMAINS
from palmette.envs.task import load_tasks
from palmette.errors import UserError, suggest
from palmette.evaluate.metrics import Score
from palmette.evaluate.run import Evaluation, evaluate, shown_on
from palmette.gateway.app import Gateway
from palmette.progress import Progress
from palmette.rollout.pool import Pool
from palmette.sandbox.hosts import open_host
from palmette.scaffolds.api import Scaffold
from palmette.scaffolds.names import open_scaffold


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure a model on, and how. `tasks` are directories and names of domains; no `tiers` means all."""

    tasks: tuple[str, ...]
    count: int
    tiers: tuple[int, ...]
    samples: int
    temperature: float
    max_tokens: int
    concurrency: int
    seed: int
    scaffold: str
    sandbox: str
    engine: str = ""  # the address of one elsewhere; the model is then only tokenizer and chat template


def evaluate_model(model: str, plan: Plan, *, runs: Path, as_json: bool) -> None:
    """Measure a model and print its scores. Raises `UserError` for a model or tasks that are not there."""
    model_dir = find_model(model, runs)
    scaffold = open_scaffold(plan.scaffold)
    scratch = Path(tempfile.mkdtemp(prefix="palmette-eval-"))
    try:
        tasks = [task for named in plan.tasks for task in _tasks(named, plan, scratch)]
        result = run_interruptibly(measure(model_dir, tasks, scaffold, plan))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if as_json:
        print(json.dumps({"model": str(model_dir), "seed": plan.seed} | result.to_dict(), indent=1))
    else:
        _print(model_dir, result)


def _tasks(named: str, plan: Plan, scratch: Path) -> list[Task]:
    """Return the tasks of a directory, or held-out ones generated for a domain."""
    if named not in DOMAINS:
        if not Path(named).exists():
            known = ", ".join(DOMAINS)
            raise UserError(f"--tasks {named}: neither a directory nor a domain{suggest(named, DOMAINS)} ({known})")
        return load_tasks(Path(named))
    with Progress(f"tasks/{named}", plan.count, "tasks") as bar:
        return build_tasks(
            named,
            scratch,
            count=plan.count,
            tiers=plan.tiers or DOMAINS[named].tiers,
            split="heldout",
            seed=plan.seed,
            on_done=lambda _: bar.update(1),
        )


async def measure(model_dir: Path, tasks: list[Task], scaffold: Scaffold, plan: Plan) -> Evaluation:
    """Attempt tasks with a model as `plan` says; everything that was opened for it is closed."""
    renderer = Renderer.from_dir(model_dir)
    async with AsyncExitStack() as stack:
        host = open_host(plan.sandbox)
        stack.push_async_callback(host.close)
        for weakness in host.weaknesses():
            print(f"warning: sandboxes ({host.name}): {weakness}", file=sys.stderr)
        engine = await engine_of(model_dir, renderer, plan.engine, max_batch=plan.concurrency)
        stack.push_async_callback(engine.close)
        gateway = Gateway(engine, renderer)
        await gateway.start()
        stack.push_async_callback(gateway.close)
        if close := getattr(scaffold, "aclose", None):
            stack.push_async_callback(close)
        pool = Pool(
            gateway=gateway,
            host=host,
            grader=Grader(host),
            scaffold=scaffold,
            concurrency=plan.concurrency,
        )
        sampling = Sampling(max_tokens=plan.max_tokens, temperature=plan.temperature, seed=plan.seed)
        with Progress(f"eval/{model_dir.name}", len(tasks) * plan.samples, "rollouts") as bar:
            return await evaluate(tasks, pool=pool, samples=plan.samples, sampling=sampling, on_done=shown_on(bar))


def _print(model_dir: Path, result: Evaluation) -> None:
    table = Table("domain", "tier", box=None, pad_edge=False, title=f"{model_dir}", title_justify="left")
    for name in ("pass@1", "95 % interval", "tasks", "excluded"):
        table.add_column(name, justify="right")
    table.add_column("outcomes")
    for domain, score in result.domains.items():
        table.add_row(escape(domain), "all", *_cells(score))
        for tier, of_tier in result.tiers[domain].items():
            table.add_row("", str(tier), *_cells(of_tier), style="dim")
    if len(result.domains) > 1:
        table.add_row("all", "all", *_cells(result.overall))
    Console().print(table)


def _cells(score: Score) -> tuple[str, ...]:
    low, high = score.interval
    outcomes = ", ".join(f"{name} {number}" for name, number in score.outcomes.items())
    numbers = ("-", "-") if score.tasks == 0 else (f"{score.pass_1:.1%}", f"{low:.1%} to {high:.1%}")
    return (*numbers, str(score.tasks), str(score.excluded), outcomes)
