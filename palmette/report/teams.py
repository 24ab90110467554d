"""The page's parts for runs of kind ``marl``: what each seed came to, how it learned, and an episode to look at."""

from __future__ import annotations

import json
import statistics
from html import escape
from pathlib import Path
from typing import Any

from palmette.errors import UserError
from palmette.report.film import Film, graph, strip
from palmette.report.load import RunRecord
from palmette.report.plots import band_figure, to_svg

_TITLES = {"success": "success", "mean_return": "return", "comm_rate": "links that were open"}
_COLUMNS = ("score", "links", "messages a step", "steps")
_SHOWN = 3  # episodes, of as many seeds


def is_team(run: RunRecord) -> bool:
    """Whether a run trains a team of agents."""
    return run.config.get("kind") == "marl"


def team_result(run: RunRecord) -> str:
    """Return the learning curve over seeds, median and quartiles, and a row a seed."""
    curves = _curves(run)
    if not curves:
        return '<p class="empty">No seed has been measured yet.</p>'
    name = run.config["game"]
    words = f"{escape(name)}, {escape(run.config['method'])}: {_last(run)}"
    pictures = "".join(
        f'<div class="card"><h3>{escape(title)} <small>median and quartiles over {len(series)} seeds</small></h3>'
        f"{to_svg(band_figure(series), f'{title} over environment steps')}</div>"
        for title, series in curves.items()
    )
    return f'<p class="lead">{words}</p><div class="cards wide">{pictures}</div>{_seeds(run)}'


def team_episodes(run: RunRecord) -> str:
    """Return one episode each of the first seeds that have finished; empty text where there is none."""
    return "".join(_episode(path) for path in _films(run)[:_SHOWN])


def _episode(path: Path) -> str:
    film = _read(path)
    ending = {True: "won", False: "not won", None: "to the limit"}[film["won"]]
    told = sum(len(step["links"]) for step in film["steps"])
    return (
        f'<div class="card"><h3>{escape(path.stem.replace("_", " "))} '
        f"<small>{len(film['steps'])} steps, {ending}, {told} messages</small></h3>"
        f'<div class="episode">{graph(film)}<div class="strip">{strip(film)}</div></div></div>'
    )


def _films(run: RunRecord) -> list[Path]:
    return sorted((run.path / "films").glob("seed_*.json"), key=lambda path: int(path.stem[5:]))


def _read(path: Path) -> Film:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no readable episode ({error}); remove it, the page does without") from None


def _curves(run: RunRecord) -> dict[str, list[tuple[tuple[int, ...], tuple[float, ...]]]]:
    """Return the measured series by title, one a seed."""
    found: dict[str, list[tuple[tuple[int, ...], tuple[float, ...]]]] = {}
    for stage in run.stages:
        for series in run.series(stage.name):
            title = {"success": "success", "mean_return": "return", "comm_rate": "links that were open"}.get(
                series.name
            )
            if title and len(series.steps_T) > 1:
                found.setdefault(title, []).append((series.steps_T, series.values_T))
    if "success" in found:
        found.pop("return", None)
    return found


def _seeds(run: RunRecord) -> str:
    rows = [(stage.name, stage.summary) for stage in run.stages if "comm_rate" in stage.summary and stage.steps]
    if not rows:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(name.removeprefix("train/").replace("_", " "))}</th>'
        f'<td class="num">{_score(summary["score"], summary["score_name"])}</td>'
        f'<td class="num">{summary["comm_rate"]:.1%}</td><td class="num">{summary["messages"]:.2f}</td>'
        f'<td class="num">{summary["steps"]:,}</td></tr>'
        for name, summary in rows
    )
    head = "".join(
        f'<th scope="col" class="num">{name}</th>' for name in ("score", "links", "messages a step", "steps")
    )
    return (
        f'<div class="card"><table><thead><tr><th scope="col">seed</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _last(run: RunRecord) -> str:
    scores: list[Any] = [stage.summary for stage in run.stages if "score_name" in stage.summary and stage.steps]
    if not scores:
        return "no seed has finished yet."
    middle = statistics.median(each["score"] for each in scores)
    links = statistics.median(each["comm_rate"] for each in scores)
    name = scores[0]["score_name"]
    return f"median {name} {_score(middle, name)} of {len(scores)} seeds, with {links:.1%} of the links open."


def _score(value: float, name: str) -> str:
    return f"{value:.1%}" if name == "success" else f"{value:.2f}"
