"""Robustness and trust: teams that `benchmarks/marl.py --models DIR` has trained, tested where messages fail or lie.

    python benchmarks/marl_trust.py --models DIR [--games scout-3x2 ...] [--episodes 1024] [--json PATH] [--quick]

Rows are ``{game, method, seed, trouble, trust, score, comm_rate}``. Troubles: messages lost (``told``: senders learn
of it, for those who know what they said), noise in what messages are made from (in standard deviations), and one sender
(the first) that says, all through an episode, what it would say in another one, where it is sure of something if the
game can tell. Trust: ``blind``, as trained; ``trials``, senders are heard or muted by chance, by what hearing them was
worth so far; ``discount``, the same trust scales what is said (T2MAC and T2MAC+ only). Trust is learned in 8 batches
under the same trouble. Nothing is trained here. With --json, rows are written team by team, and teams that are there
are not tested again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Container, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from marl import GAMES, recipe_of, test_teams, train_a_little, trained
from marl_tables import Row, method_width

from palmette.errors import UserError
from palmette.marl.channel import Channel
from palmette.marl.team import DISCOUNTING, Team, Trusting

TRUSTS: tuple[Trusting, ...] = ("blind", "trials", "discount")
TROUBLES: dict[str, Channel] = {
    "none": Channel(),
    "loss 10 %": Channel(loss=0.1),
    "loss 30 %": Channel(loss=0.3),
    "loss 50 %": Channel(loss=0.5),
    "50 %, told": Channel(loss=0.5, acknowledged=True),
    "noise 0.5": Channel(noise=0.5),
    "noise 1": Channel(noise=1.0),
    "a liar": Channel(liars=(0,)),
}


def main() -> None:
    """Test what is there and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="what benchmarks/marl.py wrote")
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    parser.add_argument("--episodes", type=int, default=1024)
    parser.add_argument("--json", type=Path, help="write rows here")
    parser.add_argument("--quick", action="store_true", help="two methods, hardly trained, on the small Scout")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            options.models, options.games, options.episodes = Path(scratch), ["scout-small"], 64
            train_a_little(options.models, "scout-small", "tarmac", "t2mac_plus")
        if not options.models or not options.models.is_dir():
            parser.error("--models DIR is missing: train with `python benchmarks/marl.py --models DIR` first")
        rows = test_teams(options.json, options.games, partial(measure, options.models, options.episodes))
    show([row for row in rows if row["game"] in options.games])


def measure(models: Path, episodes: int, game: str, there: Container[tuple[str, int]]) -> Iterator[list[Row]]:
    """Yield the rows of each of a game's teams that is not `there`."""
    for method, seed, weights in trained(models, game):
        if method in ("none", "random") or (method, seed) in there:  # nothing said, or at a rate nobody wrote down
            continue
        try:
            team = Team(recipe_of(game, method), weights, seed=seed)
        except UserError as error:
            print(f"{game}: {method}, seed {seed}: {error}")
            continue
        yield list(_rows(game, method, seed, team, episodes))
        print(f"{game}: {method}, seed {seed}", flush=True)


def _rows(game: str, method: str, seed: int, team: Team, episodes: int) -> Iterator[Row]:
    for trouble, channel in TROUBLES.items():
        for trust in TRUSTS if team.recipe.method in DISCOUNTING else TRUSTS[:2]:
            tested = team.test(episodes=episodes, channel=channel, trusting=trust)
            yield {
                "game": game,
                "method": method,
                "seed": seed,
                "trouble": trouble,
                "trust": trust,
                "score": round(tested.measured.score, 4),
                "comm_rate": round(tested.measured.comm_rate, 4),
            }


def show(rows: Iterable[Row]) -> None:
    """Print medians over seeds: a line a method and trust, a column a trouble."""
    rows = list(rows)
    wide = method_width(rows)
    for game in dict.fromkeys(row["game"] for row in rows):
        print(f"\n{game}: median score over seeds")
        print(f"{'method':{wide}}{'trust':10}{'seeds':>6}" + "".join(f"{trouble:>11}" for trouble in TROUBLES))
        for method, trust in dict.fromkeys((row["method"], row["trust"]) for row in rows if row["game"] == game):
            mine = [row for row in rows if (row["game"], row["method"], row["trust"]) == (game, method, trust)]
            cells = [[row["score"] for row in mine if row["trouble"] == trouble] for trouble in TROUBLES]
            shown = "".join(f"{statistics.median(scores):11.3f}" if scores else f"{'-':>11}" for scores in cells)
            print(f"{method:{wide}}{trust:10}{len(cells[0]):6}{shown}")


if __name__ == "__main__":
    main()
