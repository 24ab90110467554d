"""What `marl.py`'s rows show: tables in Markdown, one a game and one of all games, and a plot with a dot a seed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palmette.marl.comm.names import METHODS

Row = dict[str, Any]
OTHERS = ("full", "tarmac", "maic", "masia")  # what T2MAC+ is to reach
SOLVED = 0.95  # share won of a seed that has solved its game

_MEANS = ("comm_rate", "messages", "minutes")


def table(rows: Sequence[Row]) -> Iterable[str]:
    """Yield the table of one game: score, rate and cost of each method, seeds that solved it, what each seed scored.

    No seed has solved a game whose score is no share.
    """
    silent = [row["score"] for row in rows if row["method"] == "none"]
    yield "| method | median | IQM (95 %) | links | messages a step | gain a message | CPU min | solved | seeds |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|---|"
    for method in dict.fromkeys(row["method"] for row in rows):
        yield _of_method(method, [row for row in rows if row["method"] == method], silent)


def table_of_games(rows: Iterable[Row]) -> Iterable[str]:
    """Yield a line for every game with T2MAC+: medians, and how far T2MAC+ is above (+) or below the best of `OTHERS`.

    That one is the best by its mean over seeds; the difference is one of interquartile means.
    """
    yield "| game | silence | best of the others | random, as many links | T2MAC | T2MAC+ | links | above best (95 %) |"
    yield "|---|--:|---|--:|--:|--:|--:|--:|"
    games: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        games.setdefault(row["game"], {}).setdefault(row["method"], []).append(row)
    for game, by_method in games.items():
        if "t2mac_plus" in by_method:
            yield _of_game(game, by_method)


def plot_seeds(rows: Sequence[Row], path: Path) -> None:
    """Draw a panel a game, a column a method, a dot a seed, into a file; methods with options are left out."""
    from matplotlib.figure import Figure

    games = list(dict.fromkeys(row["game"] for row in rows))
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    columns = min(len(games), 3)
    lines = -(-len(games) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, game in zip(panels, games, strict=False):
        for column, method in enumerate(methods):
            scores = sorted(row["score"] for row in rows if (row["game"], row["method"]) == (game, method))
            spread = np.linspace(-0.28, 0.28, len(scores)) if len(scores) > 1 else np.zeros(len(scores))
            panel.scatter(column + spread, scores, s=14, color=f"C{column}")
        panel.set_title(game, fontsize=10)
        panel.set_xticks(range(len(methods)), methods, fontsize=7, rotation=30)
        panel.tick_params(axis="y", labelsize=8)
        panel.grid(axis="y", linewidth=0.3)
    for panel in panels[len(games) :]:
        panel.set_visible(False)
    figure.savefig(path, dpi=120)


def method_width(rows: Sequence[Row]) -> int:
    """Return the width of a column of the rows' methods, in plain text."""
    return max((len(row["method"]) for row in rows), default=0) + 2


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half, the fractions at its borders counted as fractions."""
    ordered = np.sort(np.asarray(values, float))
    edges = np.linspace(0, 1, len(ordered) + 1)
    share = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float((ordered * share).sum() / share.sum())


def bootstrap(values: Sequence[float], less: Sequence[float] = (), draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of the interquartile mean over resampled seeds; less that of `less`, if given."""
    random = np.random.default_rng(0)
    found = [_resampled(values, random) - (_resampled(less, random) if less else 0) for _ in range(draws)]
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def _resampled(values: Sequence[float], random: np.random.Generator) -> float:
    return interquartile_mean(list(random.choice(values, len(values))))


def _of_method(method: str, mine: list[Row], silent: list[float]) -> str:
    scores = sorted(row["score"] for row in mine)
    low, high = bootstrap(scores)
    rate, messages, minutes = (statistics.fmean(row[name] for row in mine) for name in _MEANS)
    gain = ""
    if silent and messages > 0:
        gain = f"{(statistics.fmean(scores) - statistics.fmean(silent)) / messages:.3f}"
    cells = [
        method,
        f"{statistics.median(scores):.2f}",
        f"{interquartile_mean(scores):.2f} ({low:.2f}–{high:.2f})",
        f"{100 * rate:.0f} %",
        f"{messages:.1f}",
        gain,
        f"{minutes:.1f}",
        _solved(scores),
        " ".join(f"{each:.2f}" for each in scores),
    ]
    return f"| {' | '.join(cells)} |"


def _solved(scores: list[float]) -> str:
    """Return how many seeds solved their game; nothing where scores are no shares."""
    return f"{sum(each >= SOLVED for each in scores)}/{len(scores)}" if 0 <= min(scores) <= max(scores) <= 1 else ""


def _of_game(game: str, by_method: dict[str, list[Row]]) -> str:
    """Return the line of a game; of a method without rows, its cell is empty."""
    scores = {method: [row["score"] for row in mine] for method, mine in by_method.items()}
    shown = {method: f"{statistics.median(each):.2f}" for method, each in scores.items()}
    links = {
        method: f"{100 * statistics.fmean(r['comm_rate'] for r in rows):.0f} %" for method, rows in by_method.items()
    }
    others = [method for method in OTHERS if method in scores]
    best, difference = "", ""
    if others:
        name = max(others, key=lambda method: statistics.fmean(scores[method]))
        best = f"{shown[name]} {name}, {links[name]}"
        low, high = bootstrap(scores["t2mac_plus"], less=scores[name])
        middle = interquartile_mean(scores["t2mac_plus"]) - interquartile_mean(scores[name])
        difference = f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"
    cells = [game, shown.get("none", ""), best, shown.get("random", ""), shown.get("t2mac", "")]
    return f"| {' | '.join([*cells, shown['t2mac_plus'], links['t2mac_plus'], difference])} |"
