"""Generalisation: teams trained as 3 scouts and 2 hunters that go by their roles, tested in games they never saw.

    python benchmarks/marl.py --games scout-roles --models DIR
    python benchmarks/marl_larger.py --models DIR [--episodes 1024] [--json PATH] [--quick]

Rows are ``{game, method, seed, scouts, hunters, size, sight, score, comm_rate}``; with --json, rows that are there are
not tested again. Nothing is trained here. A method whose network depends on the number of agents (MASIA's decoder of
the state) is left out, by name.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Container, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from marl import recipe_of, test_teams, train_a_little, trained
from marl_tables import Row, method_width
from torch import Tensor

from palmette.errors import UserError
from palmette.marl.envs.scout import ScoutConfig
from palmette.marl.team import Team

TRAINED = "scout-roles"
TESTS: dict[str, dict[str, int]] = {
    "as trained": {},
    "4 scouts": {"scouts": 4},
    "5 scouts": {"scouts": 5},
    "3 hunters": {"hunters": 3},
    "4 hunters": {"hunters": 4},
    "sight 0": {"sight": 0},
    "sight 2": {"sight": 2},
}


def main() -> None:
    """Test what is there and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="what benchmarks/marl.py wrote")
    parser.add_argument("--episodes", type=int, default=1024)
    parser.add_argument("--json", type=Path, help="read and write rows here")
    parser.add_argument("--quick", action="store_true", help="one method, hardly trained")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            options.models, options.episodes = Path(scratch), 64
            train_a_little(options.models, TRAINED, "t2mac_plus")
        if not options.models or not (options.models / TRAINED).is_dir():
            parser.error(f"--models DIR is missing: `python benchmarks/marl.py --games {TRAINED} --models DIR` first")
        show(test_teams(options.json, [TRAINED], partial(measure, options.models, options.episodes)))


def measure(models: Path, episodes: int, game: str, there: Container[tuple[str, int]]) -> Iterator[list[Row]]:
    """Yield the rows of each team that is not `there`, one a test."""
    for method, seed, weights in trained(models, game):
        if method == "random" or (method, seed) in there:  # random: at a rate that the weights do not tell
            continue
        yield list(_rows(game, method, seed, weights, episodes))
        print(f"{method}, seed {seed}", flush=True)


def _rows(game: str, method: str, seed: int, weights: dict[str, Tensor], episodes: int) -> Iterator[Row]:
    for changes in TESTS.values():
        recipe = recipe_of(game, method, scout=changes)
        try:
            tested = Team(recipe, weights, seed=seed).test(episodes=episodes).measured
        except UserError as error:
            print(f"{method}, seed {seed}, with {changes}: {str(error).splitlines()[0]}")
            continue
        yield {
            "game": game,
            "method": method,
            "seed": seed,
            **recipe.scout.model_dump(include={"scouts", "hunters", "size", "sight"}),
            "score": round(tested.score, 4),
            "comm_rate": round(tested.comm_rate, 4),
        }


def show(rows: Iterable[Row]) -> None:
    """Print the median score over seeds, a line a method, and the share of links beside it."""
    rows = list(rows)
    wide = method_width(rows)
    print(f"{'method':{wide}}{'seeds':>6}" + "".join(f"{name:>18}" for name in TESTS))
    for method in dict.fromkeys(row["method"] for row in rows):
        line = f"{method:{wide}}{len({row['seed'] for row in rows if row['method'] == method}):6}"
        for changes in TESTS.values():
            wanted = {**ScoutConfig().model_dump(include={"scouts", "hunters", "size", "sight"}), **changes}
            mine = [row for row in rows if row["method"] == method and wanted.items() <= row.items()]
            shown = "-"
            if mine:
                score, rate = (statistics.median(row[name] for row in mine) for name in ("score", "comm_rate"))
                shown = f"{score:.3f} ({rate:.0%})"
            line += f"{shown:>18}"
        print(line)


if __name__ == "__main__":
    main()
