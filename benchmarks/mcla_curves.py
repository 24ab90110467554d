"""Which estimators of old log-probs learn under a noisy engine, and which collapse: training curves.

    python benchmarks/mcla_curves.py [--quick] [--seeds 3] [--steps 30] [--runs DIR] [--json PATH] [--plot PATH]

The embedded base model learns terminal tasks by reinforcement learning with turn ratios (products, unless an arm says
otherwise), two updates a step, through an engine whose experts flip. Each run is an ordinary run directory below
`--runs`: finished ones are not run again, so the benchmark can be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palmette.run import RunDir
from palmette.train.pipeline import finished_run
from palmette.train.recipe import Recipe

LOG = {"mean": "log"}
ARMS: dict[str, dict[str, Any]] = {
    "recorded": {},
    "recompute": {"old_logprob": "recompute"},
    "route replay": {"old_logprob": "replay"},
    "TIS": {"gate": "tis"},
    "IcePop": {"gate": "icepop"},
    "MCLA, log mean": {"old_logprob": "monte_carlo", "draws": LOG},
    "MCLA, prob mean": {"old_logprob": "monte_carlo", "draws": {"mean": "prob"}},
    "recorded, geometric mean": {"exponent": "geometric_mean"},
    "MCLA, geometric mean": {"old_logprob": "monte_carlo", "draws": LOG, "exponent": "geometric_mean"},
    "MCLA + IcePop": {"old_logprob": "monte_carlo", "draws": LOG, "gate": "icepop", "gate_against": "monte_carlo"},
}
SHOWN = ("success", "ratio_var", "clipped", "mismatch_kl", "draw_var", "gated", "grad_norm", "entropy")


def recipe_of(arm: str, seed: int, steps: int, router_std: float) -> Recipe:
    """Return the recipe of one run."""
    rl = {
        "steps": steps,
        "groups": 8,
        "samples": 8,
        "minibatches": 2,
        "ratio": "turn",
        "exponent": "product",
        "negative": 0.25,
        "optim": {"lr": 2e-4, "decay": "constant"},
        **ARMS[arm],
    }
    return Recipe.model_validate(
        {
            "name": "mcla",
            "seed": seed,
            "domains": ["terminal"],
            "stages": ["rl"],
            "concurrency": 32,
            "max_tokens": 96,
            "threads": 1,
            "noise": {"router_std": router_std, "seed": seed},
            "tasks": {"terminal": {"train": 120, "heldout": 40}},
            "rl": rl,
        }
    )


def rows_of(arm: str, seed: int, run: RunDir) -> list[dict[str, Any]]:
    """Return a row a step."""
    return [
        {"estimator": arm, "seed": seed, "step": row["step"], **{key: row.get(key) for key in SHOWN}}
        for row in run.read_metrics("rl/terminal")
    ]


def train(arm: str, seed: int, steps: int, router_std: float, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of one run, which is made or gone on with if it is not finished."""
    path = folder / f"{arm.replace(' ', '-').replace(',', '')}-{seed}"
    run = finished_run(path, recipe_of(arm, seed, steps, router_std))
    return rows_of(arm, seed, run)


def summarise(rows: Sequence[dict[str, Any]]) -> None:
    """Print success over the last fifth of each curve, and its highest and lowest fifth."""
    for arm in ARMS:
        ends, worst = [], []
        for seed in sorted({row["seed"] for row in rows if row["estimator"] == arm}):
            curve = [
                r["success"] for r in rows if (r["estimator"], r["seed"]) == (arm, seed) and r["success"] is not None
            ]
            fifth = max(len(curve) // 5, 1)
            ends.append(statistics.mean(curve[-fifth:]))
            best = max(statistics.mean(curve[i : i + fifth]) for i in range(len(curve) - fifth + 1))
            worst.append(best - ends[-1])
        if ends:
            spread = " ".join(f"{end:.2f}" for end in ends)
            print(f"{arm:24} at the end {statistics.median(ends):.2f} ({spread}), below its best by {max(worst):.2f}")


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw success and mismatch over steps: the median of the seeds, and all of them thinly."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axis, key in zip(figure.subplots(1, 2), ("success", "ratio_var"), strict=True):
        for number, arm in enumerate(ARMS):
            mine = [row for row in rows if row["estimator"] == arm and row[key] is not None]
            steps = sorted({row["step"] for row in mine})
            colour = f"C{number}"
            for seed in {row["seed"] for row in mine}:
                of = [row for row in mine if row["seed"] == seed]
                axis.plot([r["step"] for r in of], [r[key] for r in of], color=colour, alpha=0.2, linewidth=0.8)
            middle = [statistics.median(row[key] for row in mine if row["step"] == step) for step in steps]
            axis.plot(steps, middle, color=colour, label=arm)
        axis.set_title(key.replace("_", " "))
        axis.set_xlabel("step")
        axis.set_yscale("linear" if key == "success" else "log")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run what is missing, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, two steps: for a smoke test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--router-std", type=float, default=0.1, help="of the noise on router logits")
    parser.add_argument("--runs", type=Path, default=Path("runs/mcla"))
    parser.add_argument("--json", type=Path, help="write a row a step to this file")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file")
    options = parser.parse_args()
    seeds, steps = (1, 2) if options.quick else (options.seeds, options.steps)
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for arm in ARMS:
            rows += train(arm, seed, steps, options.router_std, options.runs)
    summarise(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
