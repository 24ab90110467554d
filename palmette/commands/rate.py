"""``palmette tasks rate``: how often a policy solves each task, noted in the task; too easy and too hard can go."""

from __future__ import annotations

from pathlib import Path

from palmette.commands.evaluate import Plan, measure
from palmette.commands.interrupt import run_interruptibly
from palmette.commands.locate import find_model
from palmette.commands.tasks import set_aside
from palmette.envs.task import load_tasks, set_metadata
from palmette.errors import UserError
from palmette.evaluate.metrics import PASS
from palmette.scaffolds.names import open_scaffold


def rate(directory: Path, model: str, plan: Plan, *, runs: Path, drop: Path | None = None) -> None:
    """Attempt every task `plan.samples` times and write `pass_rate` and `rated_by` into its task.toml.

    Attempts without a reward that can be trusted do not count; a task without any other keeps what was known. Tasks
    that are always or never solved go below `drop`. Raises `UserError` for tasks or a model that are not there.
    """
    if drop is not None and drop.resolve().is_relative_to(directory.resolve()):
        raise UserError(f"--drop {drop} lies in {directory}; what is dropped must go elsewhere")
    tasks, model_dir = load_tasks(directory), find_model(model, runs)
    result = run_interruptibly(measure(model_dir, tasks, open_scaffold(plan.scaffold), plan))
    rates: list[float] = []
    for number, task in enumerate(tasks):
        rewards = [r.reward for r in result.rollouts if r.group == number and r.reward is not None]
        if rewards:
            rates.append(sum(reward >= PASS for reward in rewards) / len(rewards))
            who = f"{model}, {plan.scaffold}, {len(rewards)} samples at temperature {plan.temperature:g}"
            set_metadata(task.path / "task.toml", {"pass_rate": round(rates[-1], 4), "rated_by": who})
            if drop is not None and rates[-1] in (0.0, 1.0):
                set_aside(task.path, directory, drop)
    never, always = rates.count(0.0), rates.count(1.0)
    between = len(rates) - never - always
    print(
        f"rated {len(rates)} of {len(tasks)} tasks: {never} never solved, {always} always, {between} between"
        + (f"; {never + always} moved to {drop}" if drop is not None else "")
    )
