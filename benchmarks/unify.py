"""Specialise, then unify: every model of the recipe on every domain, over seeds, and what each cost.

    python benchmarks/unify.py [--quick] [--seeds 12 13 14] [--runs DIR] [--json PATH] [--set KEY=VALUE ...]

Runs `recipes/specialise_then_unify.toml` once a seed: ordinary run directories below `--runs`. Finished ones are not
run again and broken ones go on where they were, so the benchmark may be stopped at any time. Rows are ``{model, domain,
seed, pass_1, attempts}`` and what the model cost; an expert is measured on all domains and called ``expert-<domain>``
(``expert``: each on its own). The table has the mean over seeds with a 95 % interval of that mean (Student's t over
seeds; nothing with one), and medians of minutes, rollouts and tokens trained on, beyond the models it is made from. A
second one, of rows ``{model, domain, teacher, seed, share}``, has whom the student by evidence believed: the share of a
domain's rollouts that each expert taught.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palmette.config import load_recipe
from palmette.run import RunDir, write_atomic
from palmette.train.pipeline import finished_run
from palmette.train.recipe import Recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "specialise_then_unify.toml"
_FAST = ("terminal", "swe", "search", "general")
QUICK = (
    f"domains={json.dumps(_FAST)}",
    *(f"tasks.{domain}.{split}=4" for domain in _FAST for split in ("train", "heldout")),
    *("sft.epochs=1", "rl.steps=2", "rl.groups=3", "rl.samples=4"),
    *("distil.steps=1", "distil.groups=4", "distil.samples=2"),
)
STUDENTS = ("by_domain", "by_evidence", "student")
T_95 = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)  # two-sided, by degrees of freedom
Row = dict[str, Any]


def rows_of(run: RunDir, seed: int) -> list[Row]:
    """Return a row for each model and domain that a run has measured."""
    rows: list[Row] = []
    for stage in run.stages():
        kind, _, name = stage.partition("/")
        for domain, score in run.stage_summary(stage)["domains"].items() if kind == "evaluate" else ():
            row = {"domain": domain, "seed": seed, "pass_1": score["pass_1"], "attempts": score["rollouts"]}
            if name.startswith("sft-"):
                rows.append({"model": "sft", **row})
            else:
                rows.append({"model": name.replace("elsewhere-", "expert-"), **row})
            if name == f"expert-{domain}":
                rows.append({"model": "expert", **row})
    return rows


def costs_of(run: RunDir, seed: int) -> list[Row]:
    """Return minutes of training and tokens trained on, by model, each beyond the models that it is made from."""
    rows: list[Row] = []
    for model, stages in _stages(run).items():
        done = [name for name in stages if run.stage_done(name)]
        if done:
            minutes = sum(run.stage_summary(name)["seconds"] for name in done) / 60
            metrics = [row for name in done for row in run.read_metrics(name)]
            counts = {key: sum(int(row.get(key, 0)) for row in metrics) for key in ("rollouts", "tokens")}
            rows.append({"model": model, "seed": seed, "minutes": round(minutes, 2), **counts})
    return rows


def trusts_of(run: RunDir, seed: int) -> list[Row]:
    """Return the share of each domain's rollouts in which the student by evidence believed each teacher."""
    steps = run.read_metrics("distil/by_evidence")
    names = dict.fromkeys(key for row in steps for key in row if key.startswith("trusts/"))
    rows: list[Row] = []
    for name in names:
        _, domain, teacher = name.split("/")
        share = statistics.mean(row[name] for row in steps if name in row)
        rows.append({"model": "by_evidence", "domain": domain, "teacher": teacher, "seed": seed, "share": share})
    return rows


def _stages(run: RunDir) -> dict[str, list[str]]:
    """Return the stages that make each model."""
    experts = [name.removeprefix("rl/") for name in run.stages() if name.startswith("rl/")]
    return {
        "sft": [f"sft/{domain}" for domain in experts],
        "expert": [f"{kind}/{domain}" for kind in ("sft", "rl") for domain in experts],
        **{f"expert-{domain}": [f"sft/{domain}", f"rl/{domain}"] for domain in experts},
        **{name: [name] for name in ("average", "offline_sft", "mixed_rl")},
        "by_domain": ["cold_start", "distil/by_domain"],
        "by_evidence": ["cold_start", "distil/by_evidence"],
        "student": ["cold_start", "distil"],
    }


def show(rows: Sequence[Row], costs: Sequence[Row]) -> str:
    """Return the table in Markdown: per cent, a line a model, and how the students stand beside the experts."""
    found = list(dict.fromkeys(row["model"] for row in rows))
    domains = list(dict.fromkeys(row["domain"] for row in rows if row["model"] == "base"))
    columns = [[domain] for domain in domains] + [domains]
    alone = [model for model in found if model.startswith("expert-")]
    order = ["base", *alone, "sft", "expert", "average", "offline_sft", "mixed_rl", *STUDENTS]
    head = ["model", *domains, "mean", "minutes", "rollouts", "tokens"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    for model in (model for model in order if model in found):
        mine = [row for row in costs if row["model"] == model]
        spent = [_middle([row[key] for row in mine]) for key in ("minutes", "rollouts", "tokens")]
        cells = [_cell(_of(rows, model, column)) for column in columns]
        lines.append(f"| {model} | {' | '.join([*cells, *spent])} |")
    for model in (model for model in STUDENTS if model in found):
        pairs = [(_of(rows, model, column), _of(rows, "expert", column)) for column in columns]
        shares = [f"{sum(own) / sum(best):.1%}" if len(own) == len(best) and any(best) else "" for own, best in pairs]
        lines.append(f"| {model} / expert | {' | '.join(shares)} | | | |")
    return "\n".join(lines)


def show_trusts(trusts: Sequence[Row]) -> str:
    """Return whom the student by evidence believed, in Markdown: per cent of rollouts, mean over seeds."""
    names = sorted({row["domain"] for row in trusts})
    lines = [f"| rollouts of ↓, taught by → | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for domain in names:
        believed = [
            [row["share"] for row in trusts if (row["domain"], row["teacher"]) == (domain, name)] for name in names
        ]
        lines.append(f"| {domain} | {' | '.join(f'{100 * statistics.mean(each):.0f}' for each in believed)} |")
    return "\n".join(lines)


def _of(rows: Sequence[Row], model: str, domains: Sequence[str]) -> list[float]:
    """Return what a model scored in each seed, the mean over `domains`; only of seeds that have all of them."""
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if row["model"] == model and row["domain"] in domains:
            by_seed.setdefault(row["seed"], []).append(row["pass_1"])
    return [statistics.mean(scores) for scores in by_seed.values() if len(scores) == len(domains)]


def _cell(scores: Sequence[float]) -> str:
    """Return the mean in per cent and half the width of its interval over seeds."""
    if len(scores) < 2:
        return "".join(f"{100 * score:.1f}" for score in scores)
    half = T_95[min(len(scores), len(T_95)) - 1] * statistics.stdev(scores) / math.sqrt(len(scores))
    return f"{100 * statistics.mean(scores):.1f} ± {100 * half:.1f}"


def _middle(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = statistics.median(values)
    return f"{middle:.1f}" if isinstance(middle, float) and middle < 1000 else f"{middle:,.0f}"


def main() -> None:
    """Run what is missing, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few tasks and steps, no web: for a smoke test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[12, 13, 14], help="the recipe was chosen on 11")
    parser.add_argument("--runs", type=Path, default=Path("runs/unify"))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows: list[Row] = []
    costs: list[Row] = []
    trusts: list[Row] = []
    for seed in options.seeds[:1] if options.quick else options.seeds:
        settings = [*options.settings, *(QUICK if options.quick else ()), f"seed={seed}"]
        run = finished_run(options.runs / f"seed-{seed}", load_recipe(RECIPE, settings, Recipe))
        rows += rows_of(run, seed)
        costs += costs_of(run, seed)
        trusts += trusts_of(run, seed)
        print(f"\n{show(rows, costs)}\n\n{show_trusts(trusts)}\n", flush=True)
        if options.json:
            spent = {(row["model"], row["seed"]): row for row in costs}
            scored = [spent.get((row["model"], row["seed"]), {}) | row for row in rows]
            write_atomic(options.json, json.dumps(scored + trusts, indent=1) + "\n")


if __name__ == "__main__":
    main()
