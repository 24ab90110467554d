"""How good old log-probs are when the engine is noisy, and what they cost: MCLA beside what others do.

    python benchmarks/mcla.py [--quick] [--json PATH] [--plot PATH]

For each kind of noise the embedded base model attempts terminal tasks in sandboxes through an engine that errs so. From
these rollouts one policy gradient (turn ratios, the weights not moved) is computed with each estimator of the old
log-probs. Without noise every ratio is 1, and that gradient is what the others are compared with; so ratio_var (mean
squared distance of the turns' ratios from 1), clipped (share of turns) and grad_cosine measure noise alone. `cost` is
seconds of scoring over seconds of that gradient; medians over repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from palmette.engine.noise import Noise
from palmette.progress import Progress
from palmette.run import RunDir
from palmette.train.draws import Draws, DrawsConfig, by_engine
from palmette.train.explore import explore
from palmette.train.material import ready_tasks
from palmette.train.old import with_old
from palmette.train.policy import OnPolicyConfig, PolicyObjective
from palmette.train.recipe import NoiseConfig, Recipe, TasksConfig
from palmette.train.rl import RlConfig, fill_outcomes
from palmette.train.samples import Sample
from palmette.train.score import score_samples
from palmette.train.stage import Stage
from palmette.train.step import gradients
from palmette.train.workplace import Workplace, open_workplace

NOISES = {
    "log-probs, 1e-5 (dense)": Noise(logprob_var=1e-5),
    "log-probs, 1e-3 (MoE)": Noise(logprob_var=1e-3),
    "flips of experts": Noise(router_std=0.05),
    "capacity 2": Noise(capacity=2.0),
}
DRAWS = (1, 2, 4, 8, 16)
EXPONENTS = ("product", "geometric_mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One estimator under one noise with one exponent."""

    noise: str
    exponent: str
    estimator: str
    gate: str
    K: int
    noise_var: float  # of one draw of a token's log-prob
    ratio_var: float
    clipped: float
    grad_cosine: float
    effective_K: float
    cost: float
    tokens: int  # scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What a recipe would say."""

    name: str
    config: dict[str, Any]
    draws: int = 0


def arms(quick: bool) -> list[Arm]:
    """Return the estimators to compare."""
    found = [Arm(name=name, config={"old_logprob": name}) for name in ("recorded", "recompute", "replay")]
    for mean in ("log", "prob"):
        for count in (1, 8) if quick else DRAWS:
            config = {"old_logprob": "monte_carlo", "draws": DrawsConfig(count=count, mean=mean)}  # type: ignore[arg-type]
            found.append(Arm(name=f"monte_carlo {mean}", config=config, draws=count))
    eight = DrawsConfig(count=8, mean="log")
    found.append(Arm(name="recorded", config={"gate": "tis"}))
    found.append(Arm(name="recorded", config={"gate": "icepop"}))
    mcla = {"old_logprob": "monte_carlo", "gate": "icepop", "gate_against": "monte_carlo", "draws": eight}
    found.append(Arm(name="monte_carlo log", config=mcla, draws=8))
    return found


async def measure(name: str, noise: Noise, quick: bool, folder: Path) -> list[Row]:
    """Return the rows of one kind of noise."""
    recipe = Recipe(
        name="mcla",
        seed=5,
        domains=["terminal"],
        stages=["rl"],
        concurrency=16,
        max_tokens=96,
        threads=1,
        noise=NoiseConfig(**asdict(noise)),
        tasks={"terminal": TasksConfig(train=8 if quick else 24, heldout=1)},
        rl=RlConfig(old_logprob="replay", groups=8 if quick else 24, samples=8),
    )
    run = RunDir.create(folder / str(abs(hash(name))), recipe, seed=5)
    async with open_workplace(recipe, run) as place:
        tasks, _ = await ready_tasks(recipe, run, place)
        stage = Stage(run, "rl", _model(place), recipe.rl.optim, updates=1, seed=5, checkpoint_every=10)
        draws = Draws(by_engine(place.engine), DrawsConfig(), 0)
        with Progress("rollouts", 1, "steps") as bar:
            rollouts, _ = await explore(stage, place, tasks["terminal"]["train"], recipe.rl, bar, draws)
        samples = fill_outcomes(rollouts, recipe.rl).samples
        rows: list[Row] = []
        for arm in arms(quick):
            for row in await _arm(name, arm, stage, place, samples, 1 if quick else 3):
                rows.append(row)
                print(_line(row), flush=True)
        return rows


async def _arm(
    noise: str, arm: Arm, stage: Stage, place: Workplace, samples: Sequence[Sample], repeats: int
) -> list[Row]:
    """Measure one estimator with both exponents; one that draws nothing says the same each time."""
    stage._checked = True  # what it checks is tested elsewhere; scores and gradients may be of trees at once
    config = OnPolicyConfig(ratio="turn", token_budget=8192, **arm.config)
    bare = [replace(sample, route_TLK=None) for sample in samples]
    exact = score_samples(stage.model, bare, 8192)
    free = [replace(sample, old_logprob_T=exact_T) for sample, exact_T in zip(bare, exact, strict=True)]
    found: dict[str, dict[str, list[float]]] = {exponent: {} for exponent in EXPONENTS}
    for repeat in range(repeats if arm.draws else 1):
        began = time.process_time()
        filled, metrics = await with_old(stage, samples, config, Draws(by_engine(place.engine), config.draws, repeat))
        scored_s = time.process_time() - began
        for exponent in EXPONENTS:
            way = config.model_copy(update={"exponent": exponent})
            target, _ = _gradient(stage, free, way.model_copy(update={"gate": "none"}))
            began = time.process_time()
            gradient, sums = _gradient(stage, filled, way)
            step_s = time.process_time() - began
            numbers = {
                "noise_var": metrics.get("draw_var", 0.0),
                "ratio_var": sums["ratio_var"],
                "clipped": sums["clipped"],
                "grad_cosine": float(torch.nn.functional.cosine_similarity(gradient, target, dim=0)),
                "effective_K": metrics.get("effective_draws", 1.0),
                "cost": scored_s / step_s,
                "tokens": metrics.get("drawn_tokens", 0.0),
            }
            for key, value in numbers.items():
                found[exponent].setdefault(key, []).append(value)
    rows: list[Row] = []
    for exponent, values in found.items():
        middle: dict[str, Any] = {key: statistics.median(each) for key, each in values.items()}
        middle["tokens"] = int(middle["tokens"])
        rows.append(
            Row(noise=noise, exponent=exponent, estimator=arm.name, gate=config.gate, K=arm.draws or 1, **middle)
        )
    return rows


def _gradient(stage: Stage, samples: Sequence[Sample], config: OnPolicyConfig) -> tuple[torch.Tensor, dict[str, float]]:
    sums = gradients(stage.model, samples, PolicyObjective(config), token_budget=8192)
    gradient = torch.cat([p.grad.flatten() for p in stage.model.parameters() if p.grad is not None]).double()
    stage.model.zero_grad(set_to_none=True)
    return gradient, sums


def _model(place: Workplace) -> Any:
    from palmette.model.load import load_model

    return load_model(place.model_dir)


def _line(row: Row) -> str:
    what = f"{row.estimator}{'' if row.gate == 'none' else ' + ' + row.gate}"
    return (
        f"{row.noise:24} {row.exponent:15} {what:26} K {row.K:2}  var {row.noise_var:7.1e}  "
        f"ratio var {row.ratio_var:8.2e}  clipped {row.clipped:6.1%}  cosine {row.grad_cosine:6.3f}  "
        f"effective K {row.effective_K:5.1f}  cost {row.cost:5.2f}"
    )


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw variance of ratios, clipped turns and cosines against the number of draws, a line a noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    for line, exponent in enumerate(EXPONENTS):
        for column, key in enumerate(("ratio_var", "clipped", "grad_cosine")):
            axis = axes[line][column]
            for noise in NOISES:
                of = [r for r in rows if (r.noise, r.exponent, r.gate) == (noise, exponent, "none")]
                drawn = sorted((r.K, getattr(r, key)) for r in of if r.estimator == "monte_carlo log")
                axis.plot([k for k, _ in drawn], [v for _, v in drawn], marker="o", label=noise)
            axis.set_xscale("log", base=2)
            if key == "ratio_var":
                axis.set_yscale("log")
                axis.set_ylim(1e-8, 1)  # the product under dropped tokens is above this
            axis.set_title(f"{key.replace('_', ' ')}, {exponent.replace('_', ' ')}", fontsize=10)
            axis.set_xlabel("draws K")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tasks, draws and repeats: for a smoke test")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file")
    options = parser.parse_args()
    logging.getLogger("palmette.train").setLevel(logging.ERROR)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, noise in NOISES.items():
            rows += asyncio.run(measure(name, noise, options.quick, Path(folder)))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
