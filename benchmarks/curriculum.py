"""The three axes of reinforcement learning, each on and off: what they are worth where nothing was trained.

    python benchmarks/curriculum.py [--quick] [--seeds 3] [--arms none ...] [--runs DIR] [--json PATH]

One terminal expert (SFT, then RL) an arm and seed, with as many demonstrations, rollouts and updates in each: no axis,
complexity (tasks that the policy solves sometimes), intent (told as specification and as request, demonstrations too),
scaffold (the loop in three styles, demonstrations too), and all. Each is measured on held-out tasks as plain requests
to the plain loop, on tiers harder than any in training, in a phrasing that nobody trained on (colloquial), and by
styles that nobody trained with. Each run is an ordinary run directory below `--runs`: finished ones are not run again.
Rows: ``{arm, seed, model, axis, value, pass_1}``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palmette.run import RunDir, write_atomic
from palmette.train.pipeline import finished_run
from palmette.train.recipe import Recipe

Row = dict[str, Any]
STYLES = {"loop": 2.0, "loop:xml": 1.0, "loop:names=3": 1.0}
TIERS = {"tiers": [1, 2], "heldout_tiers": [1, 2, 3, 4]}
UNSEEN = ["loop:plan", "loop:xml,names=3", "loop:names=9"]  # another flow, a new pairing, names nobody heard
TOLD = ["specification", "request"]
ARMS: dict[str, dict[str, Any]] = {
    "none": {},
    "complexity": {"curriculum": {"complexity": True}},
    "intent": {"curriculum": {"intents": TOLD}},
    "scaffold": {"curriculum": {"scaffold": True}, "agents": {"terminal": STYLES}},
    "all": {
        "curriculum": {"complexity": True, "intents": TOLD, "scaffold": True},
        "agents": {"terminal": STYLES},
    },
}


def recipe_of(arm: str, seed: int, quick: bool) -> Recipe:
    """Return the recipe of one run."""
    told = ARMS[arm].get("curriculum", {}).get("intents", [])
    some = 10 if quick else 2000
    return Recipe.model_validate(
        {
            "name": "curriculum",
            "seed": seed,
            "domains": ["terminal"],
            "stages": ["sft", "rl"],
            "threads": 1,
            "tasks": {"terminal": {"train": some, "heldout": max(some // 20, 4), **TIERS}},
            "sft": {"demonstrations": some * 4 // 5, "epochs": 3, "intents": told},
            "rl": {
                "steps": 1 if quick else 15,
                "groups": 12,
                "samples": 8,
                "mean": "sample",
                "negative": 0.25,
                "optim": {"lr": 2e-4, "decay": "constant", "warmup": 0.1},
            },
            "eval": {
                "temperature": 1.0,
                "scaffold": "loop",
                "intents": ["specification", "colloquial"],
                "scaffolds": [*list(STYLES)[1:], *UNSEEN],
            },
            **ARMS[arm],
        }
    )


def rows_of(arm: str, seed: int, run: RunDir) -> list[Row]:
    """Return a row for every model and every value of every axis."""
    summary = json.loads((run.path / "summary.json").read_text())
    found = {("plain", ""): summary["domains"]["terminal"]}
    for axis, domains in summary["axes"].items():
        found |= {(axis, value): scores for value, scores in domains["terminal"].items()}
    return [
        {"arm": arm, "seed": seed, "model": model, "axis": axis, "value": value, "pass_1": scores[model]}
        for (axis, value), scores in found.items()
        for model in ("base", "sft", "expert")
        if model in scores
    ]


def show(rows: Sequence[Row]) -> str:
    """Return the table in Markdown: what models of each arm scored, per cent: mean over seeds, least and most."""
    columns = list(dict.fromkeys((row["axis"], row["value"]) for row in rows))
    names = [f"{axis} {value}".strip() for axis, value in columns]
    lines = [f"| model, arm | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    found = {(row["model"], row["arm"]) for row in rows}
    for model, arm in [("base", "none"), *((model, arm) for model in ("sft", "expert") for arm in ARMS)]:
        if (model, arm) not in found or (model, arm) == ("sft", "complexity"):  # whose SFT is that of none
            continue
        cells = []
        for at in ((model, arm, axis, value) for axis, value in columns):
            of = [row["pass_1"] for row in rows if (row["model"], row["arm"], row["axis"], row["value"]) == at]
            cells.append(f"{100 * statistics.mean(of):.0f} ({100 * min(of):.0f}–{100 * max(of):.0f})" if of else "")
        lines.append(f"| {model}, {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, one step: for a smoke test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--runs", type=Path, default=Path("runs/curriculum"))
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows: list[Row] = []
    for seed in range(1 if options.quick else options.seeds):
        for arm in options.arms:
            run = finished_run(options.runs / f"{arm}-{seed}", recipe_of(arm, seed, options.quick))
            rows += rows_of(arm, seed, run)
            if options.json:
                write_atomic(options.json, json.dumps(rows, indent=1) + "\n")
        print(f"\n{show(rows)}\n", flush=True)


if __name__ == "__main__":
    main()
