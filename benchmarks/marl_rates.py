"""Success against rate: teams that `benchmarks/marl.py --models DIR` has trained, tested with fewer or more links open.

    python benchmarks/marl_rates.py --models DIR [--games scout-3x2 ...] [--episodes 512] [--json PATH] [--plot PATH]
                                    [--quick]

Rows are ``{game, method, links, setting, seed, score, comm_rate, messages}``. Links that are ``chosen`` are those of
the method's own gate (T2MAC, T2MAC+: the threshold of its probability; MAIC: the attention below which it cuts); those
``by chance`` open each with one probability, in the same trained network. Nothing is trained here, so a network meets
rates that it was not trained at: what it was trained for is in the table of `benchmarks/marl.py`. With --json, teams
whose rows are there are not tested again, and are drawn too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Container, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from marl import GAMES, recipe_of, test_teams, train_a_little, trained
from marl_tables import Row, method_width
from torch import Tensor

from palmette.marl.channel import Channel
from palmette.marl.team import Team

RATES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
CHOSEN: dict[str, tuple[str, tuple[float, ...]]] = {
    "t2mac": ("threshold", (0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)),
    "t2mac_plus": ("threshold", (0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)),
    "maic": ("cut", (0.0, 0.25, 0.5, 0.75, 1.0)),
}
ALL_OPEN: dict[str, dict[str, Any]] = {
    "t2mac": {"threshold": 1e-37},
    "t2mac_plus": {"gate": "all"},
    "maic": {"cut": 0.0},
}


def main() -> None:
    """Test what is there, print the table, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="what benchmarks/marl.py wrote")
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--json", type=Path, help="read and write rows here")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file")
    parser.add_argument("--quick", action="store_true", help="two methods, hardly trained, on the small Scout")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick:
            options.models, options.games, options.episodes = Path(scratch), ["scout-small"], 64
            train_a_little(options.models, "scout-small", "full", "t2mac_plus")
        if not options.models or not options.models.is_dir():
            parser.error("--models DIR is missing: train with `python benchmarks/marl.py --models DIR` first")
        rows = test_teams(options.json, options.games, partial(measure, options.models, options.episodes))
    show(rows)
    if options.plot:
        plot(rows, options.plot)


def measure(models: Path, episodes: int, game: str, there: Container[tuple[str, int]]) -> Iterator[list[Row]]:
    """Yield the rows of each of a game's teams that is not `there`."""
    for method, seed, weights in trained(models, game):
        if method in ("none", "oracle", "random") or (method, seed) in there:  # of the first there is nothing to vary
            continue
        name = recipe_of(game, method).method  # without its options
        option, settings = CHOSEN.get(name, ("", ()))
        forced = ALL_OPEN.get(name, {})
        yield [
            *(_row(game, method, seed, weights, episodes, "chosen", each, {option: each}) for each in settings),
            *(_row(game, method, seed, weights, episodes, "by chance", each, forced) for each in RATES),
        ]
        print(f"{game}: {method}, seed {seed}", flush=True)


def _row(
    game: str,
    method: str,
    seed: int,
    weights: dict[str, Tensor],
    episodes: int,
    links: str,
    setting: float,
    options: dict[str, Any],
) -> Row:
    channel, share = (Channel(loss=1 - setting), setting) if links == "by chance" else (Channel(), 1.0)
    tested = Team(recipe_of(game, method, options), weights, seed=seed).test(episodes=episodes, channel=channel)
    return {
        "game": game,
        "method": method,
        "links": links,
        "setting": setting,
        "seed": seed,
        "score": round(tested.measured.score, 4),
        "comm_rate": round(share * tested.measured.comm_rate, 4),
        "messages": round(share * tested.measured.messages, 3),
    }


def curves(rows: Iterable[Row], game: str) -> dict[tuple[str, str], list[tuple[float, float, int]]]:
    """Return, by (method, links), (median rate, median score over seeds, seeds) of every setting, by rate."""
    of_game = [row for row in rows if row["game"] == game]
    found: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    for method, links in dict.fromkeys((row["method"], row["links"]) for row in of_game):
        mine = [row for row in of_game if (row["method"], row["links"]) == (method, links)]
        points = []
        for setting in dict.fromkeys(row["setting"] for row in mine):
            at = [row for row in mine if row["setting"] == setting]
            rate, score = (statistics.median(row[name] for row in at) for name in ("comm_rate", "score"))
            points.append((rate, score, len(at)))
        found[method, links] = sorted(points)
    return found


def show(rows: list[Row]) -> None:
    """Print medians over seeds: score at rate."""
    wide = method_width(rows)
    for game in dict.fromkeys(row["game"] for row in rows):
        print(f"\n{game}: median score at median share of links, over seeds")
        for (method, links), points in curves(rows, game).items():
            shown = "  ".join(f"{score:.2f} at {rate:.0%}" for rate, score, _ in points)
            print(f"{method:{wide}}{links:10}{points[0][2]:3}  {shown}")


def plot(rows: list[Row], path: Path) -> None:
    """Draw a panel a game: full lines where links are chosen, dotted ones where they open by chance."""
    from matplotlib.figure import Figure

    games = list(dict.fromkeys(row["game"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = min(len(games), 3)
    lines = -(-len(games) // columns)
    figure = Figure(figsize=(1 + 3.4 * columns, 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, game in zip(panels, games, strict=False):
        for (method, links), points in curves(rows, game).items():
            chosen = links == "chosen"
            panel.plot(
                [rate for rate, _, _ in points],
                [score for _, score, _ in points],
                color=f"C{methods.index(method)}",
                linestyle="-" if chosen else ":",
                marker="o" if chosen else None,
                markersize=3,
                label=f"{method}, {links}",
            )
        panel.set_title(game, fontsize=10)
        panel.set_xlabel("share of links")
        panel.set_ylabel("score")
    for panel in panels[len(games) :]:
        panel.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
