"""Learning: every method on every game, at equal updates and equal environment steps.

    python benchmarks/marl.py [--games scout-3x2 ...] [--methods none ...] [--seeds N] [--steps N] [--json PATH]
                              [--models DIR] [--show] [--plot PATH] [--ablation]

A method is a name, or a name with options as the recipe's section has them: ``t2mac_plus:confidence=sigmoid,budget=1``.
Rows are ``{game, method, seed, score, comm_rate, messages, env_steps, updates, minutes}``: the score (share won, or
mean return) is the mean of the last three greedy tests, minutes are of processor time in one thread. Links that open by
chance do so as often as those of t2mac_plus under the same seed. With --json, rows are written as they come and those
that are there are not run again, so it may be stopped and started (what was under way is lost: a seed is written when
it ends). All seeds of a game and method train side by side, as each would alone. With --models, trained agents stay
there as ``GAME/METHOD-SEED.safetensors``, for `benchmarks/marl_trust.py`. Methods are our re-implementations, untuned.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from marl_tables import Row, plot_seeds, table, table_of_games
from pydantic import ValidationError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from palmette.marl.cohort import Cohort
from palmette.marl.comm.names import METHODS
from palmette.marl.envs.hallway import clock_bar
from palmette.marl.recipe import MarlRecipe
from palmette.marl.training import Measured, Training
from palmette.run import write_atomic

_SLOW = {"epsilon_steps": 400_000}  # Hallway learns with slow exploration only
# What moves without end learns too little from an update every 120 steps (pilots, docs/log.md).
_OFTEN = {"update_every": 60, "batch": 16, "target_every": 50, "lr": 0.001}
# Allies see 3 far and shoot 5; who runs away for 50 steps has not won. Mixed maps take much longer (pilots).
_BATTLE = {"game": "smax", "learn": {"update_every": 40, "epsilon_steps": 50_000}}
_NEAR = {"sight_range": 3.0, "limit": 50}
GAMES: dict[str, dict[str, Any]] = {
    "scout-3x2": {"game": "scout", "steps": 450_000, "learn": {"update_every": 150}},
    "scout-5x3": {
        "game": "scout",
        "steps": 600_000,
        "learn": {"update_every": 150},
        "scout": {"scouts": 5, "hunters": 3},
    },
    "scout-small": {
        "game": "scout",
        "steps": 60_000,
        "learn": {"update_every": 60, "epsilon_steps": 12_000, "lr": 0.002, "target_every": 50},
        "scout": {"size": 5, "limit": 8, "hunters": 1, "sight": 0},
    },
    "scout-roles": {"game": "scout", "steps": 450_000, "learn": {"update_every": 150, "ids": "roles"}},
    "hallway-4-6-10": {"game": "hallway", "seeds": 10, "steps": 500_000, "learn": _SLOW},
    "hallway-tight": {"game": "hallway", "seeds": 10, "steps": 500_000, "learn": _SLOW, "hallway": {"slack": 0}},
    "hallway-groups": {  # the published groups, less the longest corridor: with it `full` never wins (pilots)
        "game": "hallway",
        "seeds": 10,
        "steps": 700_000,
        "learn": _SLOW,
        "hallway": {"lengths": [3, 5, 4, 6], "groups": [0, 0, 1, 1]},
    },
    "navigation-near": {
        "game": "navigation",
        "steps": 150_000,
        "learn": {**_OFTEN, "reward_scale": 0.1, "lr": 0.0005},
        "navigation": {"view_radius": 0.3},
    },
    "predators-near": {
        "game": "predators",
        "steps": 400_000,
        "learn": {**_OFTEN, "batch": 32, "reward_scale": 0.1},
        "predators": {"predators": 5, "view_radius": 0.5},
    },
    "smax-3m-near": {**_BATTLE, "steps": 100_000, "smax": {**_NEAR, "map": "3m"}},
    "smax-8m-near": {**_BATTLE, "steps": 80_000, "smax": {**_NEAR, "map": "8m"}},
}
ABLATION = [  # each ingredient of T2MAC+ without it or otherwise, and of T2MAC what the paper leaves open
    "t2mac_plus",
    "t2mac_plus:confidence=sigmoid",
    "t2mac_plus:confidence=none",
    "t2mac_plus:mix=sum",
    "t2mac_plus:price=0.01",
    "t2mac_plus:price=0.05",
    "t2mac_plus:keep=false",
    "t2mac_plus:price=0.05,keep=false",
    "t2mac_plus:beside=all",
    "t2mac_plus:rehearse=false",
    "t2mac_plus:beside=all,rehearse=false",
    "t2mac_plus:label=regret",
    "t2mac_plus:label=regret,balance=1",
    "t2mac_plus:label=uncertainty",
    "t2mac_plus:warm_up=0",
    "t2mac_plus:budget=1",
    "t2mac_plus:gate=all",
    "t2mac_plus:gate=random",
    "t2mac",
    "t2mac:reading=received",
    "t2mac:warm_up=0.6",
    "t2mac:head=log_evidence",
    "t2mac:head=log_evidence,warm_up=0.6",
]


def main() -> None:
    """Train what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    parser.add_argument("--methods", nargs="+", type=_known, default=list(METHODS))
    parser.add_argument("--ablation", action="store_true", help="instead of all methods, those two with each switch")
    parser.add_argument("--seeds", type=int, help="instead of five, and ten on Hallway, which is won or not at all")
    parser.add_argument("--steps", type=int, help="environment steps, instead of each game's")
    parser.add_argument("--json", type=Path, help="read and write rows here")
    parser.add_argument("--models", type=Path, help="write trained agents below this directory")
    parser.add_argument("--plot", type=Path, help="draw a dot for each seed into this file")
    parser.add_argument("--show", action="store_true", help="train nothing, print the tables of what is there")
    parser.add_argument("--quick", action="store_true", help="2,000 steps of the small Scout: does it run at all")
    options = parser.parse_args()
    if options.ablation:
        options.methods = ABLATION
    if options.quick:
        options.games, options.seeds, options.steps = ["scout-small"], 1, 2000
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows = read_rows(options.json)
    for game, method in [] if options.show else _plan(options.games, options.methods):
        there = {row["seed"] for row in rows if (row["game"], row["method"]) == (game, method)}
        seeds = set(range(options.seeds or GAMES[game].get("seeds", 5)))
        for row, agents in train(game, method, seeds - there, rows, steps=options.steps):
            if options.models:
                _keep(options.models, game, method, row["seed"], agents)
            rows.append(row)
            print(json.dumps(row), flush=True)
            if options.json:
                write_rows(options.json, rows)
    shown = [row for row in rows if row["game"] in options.games]
    show(shown)
    if options.plot:
        plot_seeds(shown, options.plot)


def train(
    game: str, method: str, seeds: Iterable[int], rows: Iterable[Row], *, steps: int | None = None
) -> Iterator[tuple[Row, dict[str, Tensor]]]:
    """Yield the row of each training and its agents; none where the method does not apply (no oracle in the game)."""
    if method == "oracle" and GAMES[game]["game"] != "scout":
        return
    rates = {r["seed"]: r["comm_rate"] for r in rows if (r["game"], r["method"]) == (game, "t2mac_plus")}
    changes = {"steps": steps} if steps else {}
    trainings = []
    for seed in sorted(seeds):
        matched = {"rate": rates[seed]} if _by_chance(method) and seed in rates else None
        trainings.append(Training(recipe_of(game, method, matched, **changes), seed))
    if not trainings:
        return
    cohort = Cohort(trainings)
    every = max(trainings[0].recipe.steps // trainings[0].recipe.test.times, 1)
    tests: dict[int, list[Measured]] = {training.seed: [] for training in trainings}
    while left := cohort.unfinished:
        before = [training.env_steps for training in left]
        cohort.advance()
        for training, begun in zip(left, before, strict=True):
            if begun // every != training.env_steps // every or training.finished:
                tests[training.seed].append(training.measure())
            if training.finished:
                yield _row(game, method, training, tests[training.seed]), training.weights()


def recipe_of(game: str, method: str, options: Mapping[str, Any] | None = None, **changes: Any) -> MarlRecipe:
    """Return the recipe of a game and method, with further options of the method, and the recipe's own changes."""
    name, _, written = method.partition(":")
    section: dict[str, Any] = dict(options or {})
    for each in written.split(",") if written else ():
        option, _, section[option] = each.partition("=")
    sections = {name: section} if section else {}
    return MarlRecipe.model_validate({**GAMES[game], **sections, **changes, "method": name, "kind": "marl"})


def trained(models: Path, game: str) -> Iterator[tuple[str, int, dict[str, Tensor]]]:
    """Yield (method, seed, weights) of every team of a game that is kept below `models`."""
    for path in sorted((models / game).glob("*.safetensors")):
        method, _, seed = path.stem.rpartition("-")
        yield method, int(seed), load_file(path)


def read_rows(path: Path | None) -> list[Row]:
    """Return the rows that are there."""
    return json.loads(path.read_text()) if path and path.exists() else []


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a row a line, for they are kept under version control (`benchmarks/rows`)."""
    write_atomic(path, "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def test_teams(
    path: Path | None, games: Iterable[str], measure: Callable[[str, Container[tuple[str, int]]], Iterator[list[Row]]]
) -> list[Row]:
    """Return the rows of `path` and of each team, (method, seed), that is not there, written as they come."""
    rows = read_rows(path)
    for game in games:
        there = {(row["method"], row["seed"]) for row in rows if row["game"] == game}
        for of_team in measure(game, there):
            rows += of_team
            if path:
                write_rows(path, rows)
    return rows


def train_a_little(models: Path, game: str, *methods: str) -> None:
    """Keep teams of 2,000 steps: for smoke tests of what tests teams."""
    for method in methods:
        for row, agents in train(game, method, [0], [], steps=2000):
            _keep(models, game, method, row["seed"], agents)


def _keep(models: Path, game: str, method: str, seed: int, agents: dict[str, Tensor]) -> None:
    write_atomic(models / game / f"{method}-{seed}.safetensors", to_bytes(agents))


def _row(game: str, method: str, training: Training, tests: list[Measured]) -> Row:
    last = tests[-3:]
    return {
        "game": game,
        "method": method,
        "seed": training.seed,
        "score": round(statistics.fmean(each.score for each in last), 4),
        "comm_rate": round(statistics.fmean(each.comm_rate for each in last), 4),
        "messages": round(statistics.fmean(each.messages for each in last), 3),
        "env_steps": training.env_steps,
        "updates": training.learner.updates,
        "minutes": round(training.seconds / 60, 2),
        "curve": [round(each.score, 3) for each in tests],
    }


def show(rows: list[Row]) -> None:
    """Print a table a game, and one of all games."""
    for game in dict.fromkeys(row["game"] for row in rows):
        recipe = MarlRecipe.model_validate({**GAMES[game], "kind": "marl"})
        bar = clock_bar(recipe.hallway) if recipe.game == "hallway" else None
        print(f"\n**{game}**" + (f" (the best clock without a word: {float(bar):.3f})" if bar is not None else ""))
        print("", *table([row for row in rows if row["game"] == game]), "", sep="\n")
    print(*table_of_games(rows), sep="\n")


def _plan(games: list[str], methods: list[str]) -> Iterable[tuple[str, str]]:
    """Yield (game, method), t2mac_plus before those whose rate it sets; a game that cannot be opened here is named."""
    for game in games:
        if GAMES[game]["game"] == "smax" and find_spec("jaxmarl") is None:
            print(f"{game} is left out: it needs pip install 'palmette[smax]'")
            continue
        for method in sorted(methods, key=_by_chance):
            yield game, method


def _by_chance(method: str) -> bool:
    return method == "random" or method.endswith("gate=random")


def _known(method: str) -> str:
    """Return the name of a method. Raises `ArgumentTypeError` for one that there is not, or such options."""
    try:
        recipe_of("scout-small", method)
    except ValidationError as error:
        found = error.errors()[0]
        message = found["msg"].removeprefix("Value error, ")
        raise argparse.ArgumentTypeError(": ".join(filter(None, [".".join(map(str, found["loc"])), message]))) from None
    return method


if __name__ == "__main__":
    main()
