"""One self-contained page about a run: the result, the curves, the stages, and rollouts to read token by token."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import palmette
from palmette.report.axes import axes_of
from palmette.report.load import RunRecord, Stage, load_run, told_of_trees
from palmette.report.pick import pick
from palmette.report.plots import charts_of, curve_figure, score_figure, to_svg
from palmette.report.tables import as_html, headline
from palmette.report.teams import is_team, team_episodes, team_result
from palmette.report.text import duration
from palmette.report.tokens import find_pieces
from palmette.report.tree_view import TokenTable, view
from palmette.run import write_atomic
from palmette.trajectory.store import TreeStore

_AXES = {"tier": "By difficulty", "intent": "By phrasing", "scaffold": "By scaffold"}


def write_report(run_path: Path) -> Path:
    """Write ``report.html`` into a run directory and return its path; works at any moment of a run.

    The page needs no network: style, script, pictures and data are inside. Raises `UserError` when `run_path` is no
    run, or holds a file that cannot be read.
    """
    run = load_run(run_path)
    target = run.path / "report.html"
    write_atomic(target, page(run))
    return target


def page(run: RunRecord) -> str:
    """Return the page as HTML."""
    data = _rollout_data(run)
    sections = {
        "result": ("Result", team_result(run) if is_team(run) else _result(run)),
        "curves": ("Curves", _curves(run)),
        "stages": ("Stages", _stages(run)),
        **_attempts(run, has_rollouts=bool(data["rollouts"])),
        "details": ("Details", _details(run)),
    }
    return Template(_asset("page.html")).substitute(
        title=escape(run.name),
        subtitle=escape(_subtitle(run)),
        navigation="".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in sections.items()),
        sections="\n".join(
            f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{title}</h2>{body}</section>'
            for name, (title, body) in sections.items()
        ),
        style=_asset("page.css"),
        script=_asset("page.js"),
        data=json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        version=escape(palmette.__version__),
        run_path=escape(f"{run.path.parent.name}/{run.path.name}"),
    )


def _subtitle(run: RunRecord) -> str:
    facts = [run.summary.get("date"), run.summary.get("machine")]
    return " · ".join(str(fact) for fact in facts if fact) or f"run {run.state}"


def _result(run: RunRecord) -> str:
    """The facts of the run, the headline table, and the same numbers as pictures."""
    if not run.domains:
        return f"{_facts(run)}{_empty(_no_scores(run))}"
    table = headline(run.domains)
    charts = "".join(
        f'<div class="card"><h3>{escape(domain)} <small>pass@1, held out</small></h3>'
        f"{to_svg(score_figure(cells), f'pass@1 on {domain} by model')}</div>"
        for domain, cells in table.rows.items()
    )
    lead = (
        "Share of held-out tasks solved at the first attempt, in per cent, with 95 % intervals. "
        "Rollouts whose reward cannot be trusted are left out of every denominator"
        f"{_excluded(run)}."
    )
    return (
        f'{_facts(run)}<p class="lead">{lead}</p>{as_html(table)}<div class="cards wide">{charts}</div>{_by_axis(run)}'
    )


def _no_scores(run: RunRecord) -> str:
    if run.state == "finished":
        return "This run has no scores: it has no stage that evaluates."
    return f"No scores yet, the run is {run.state}: its curves and rollouts so far are below."


def _excluded(run: RunRecord) -> str:
    evaluations = [each["overall"] for _, each in run.evaluations() if "overall" in each]
    excluded, rollouts = (sum(each.get(name, 0) for each in evaluations) for name in ("excluded", "rollouts"))
    return f" ({excluded} of {rollouts} in this run)" if rollouts else ""


def _by_axis(run: RunRecord) -> str:
    """The same table along every axis that was measured, folded away."""
    axes = axes_of(run.evaluations())
    told = []
    for axis, title in _AXES.items():
        rows = {
            f"{domain}, {axis} {value}": scores
            for domain, values in sorted(axes.get(axis, {}).items())
            for value, scores in sorted(values.items())
        }
        if rows:
            table = as_html(headline(rows))
            told.append(f'<details class="more"><summary>{title}</summary>{table}</details>')
    return "".join(told)


def _facts(run: RunRecord) -> str:
    shown = {
        "held-out tasks": run.tasks_held_out,
        "time": duration(60 * run.summary["minutes"]) if "minutes" in run.summary else None,
        "peak memory": f"{run.summary['peak_memory_gb']:.1f} GB" if "peak_memory_gb" in run.summary else None,
        "stages": f"{sum(stage.finished for stage in run.stages)} of {len(run.stages)}" if run.stages else None,
        "state": "finished" if run.summary else run.state,  # the page is the last thing a run writes
    }
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in shown.items() if value is not None
    )
    return f'<dl class="facts">{cells}</dl>'


def _curves(run: RunRecord) -> str:
    cards = []
    for stage in run.stages:
        for series in charts_of(run.series(stage.name)):
            name = " and ".join(each.name.replace("_", " ") for each in series)
            picture = to_svg(curve_figure(series), f"{name} of {stage.name} by step")
            cards.append(
                f'<div class="card"><h3>{escape(stage.name)} <small>{escape(name)}</small></h3>{picture}</div>'
            )
    lead = '<p class="lead">Thin: every step. Thick: moving average.</p>'
    return f'{lead}<div class="cards">{"".join(cards)}</div>' if cards else _empty("No curves yet.")


def _stages(run: RunRecord) -> str:
    if not run.stages:
        return _empty("No stage has begun.")
    longest = max((stage.seconds or 0.0 for stage in run.stages), default=0.0) or 1.0
    total = sum(stage.seconds or 0.0 for stage in run.stages)
    rows = "".join(_stage_row(stage, told_of_trees(run, stage.name), longest, total) for stage in run.stages)
    return (
        '<div class="card"><table class="stages"><thead><tr><th scope="col">stage</th><th scope="col" class="num">steps'
        '</th><th scope="col" class="num">time</th><th scope="col" class="num">share</th>'
        '<th scope="col" class="num" title="tokens that a tree computes once, and the measured speed-up">trees</th>'
        "<th></th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _stage_row(stage: Stage, trees: str, longest_s: float, total_s: float) -> str:
    seconds = stage.seconds or 0.0
    share = f"{100 * seconds / total_s:.0f} %" if total_s and stage.seconds is not None else "–"
    return (
        f'<tr><th scope="row">{escape(stage.name)}{"" if stage.finished else " <small>(unfinished)</small>"}</th>'
        f'<td class="num">{stage.steps or "–"}</td>'
        f'<td class="num">{duration(stage.seconds) if stage.seconds is not None else "–"}</td>'
        f'<td class="num">{share}</td><td class="num">{trees or "–"}</td>'
        f'<td><span class="span{"" if stage.finished else " open"}" '
        f'style="width:{100 * seconds / longest_s:.1f}%"></span></td></tr>'
    )


def _attempts(run: RunRecord, *, has_rollouts: bool) -> dict[str, tuple[str, str]]:
    if is_team(run):
        return {"episodes": ("Episodes", team_episodes(run) or _empty("No seed has finished yet."))}
    return {"rollouts": ("Rollouts", _browser() if has_rollouts else _empty("No rollouts were kept yet."))}


def _browser() -> str:
    names = ("domain", "stage", "model", "outcome", "reward")
    selects = "".join(
        f'<label>{name}<select name="{name}"><option value="">all</option></select></label>' for name in names
    )
    return (
        '<p class="lead">A choice of every kind: each stage, model, domain and outcome, solved and not. '
        "Tokens shows what the model was given and what it sampled, exactly as the engine saw it.</p>"
        f'<div class="filters">{selects}<label>search'
        '<input type="search" id="search" placeholder="task, command, text"></label>'
        '<span class="count" id="count" role="status"></span></div>'
        '<div class="browser" id="browser"><ul class="list" role="listbox" tabindex="0" aria-label="Rollouts"></ul>'
        '<div class="detail" aria-live="off"></div></div><p class="keys"><kbd>j</kbd> <kbd>k</kbd> next, previous · '
        "<kbd>m</kbd> messages · <kbd>t</kbd> tokens · <kbd>/</kbd> search · <kbd>Esc</kbd> back</p>"
        '<noscript><p class="empty">Reading rollouts needs JavaScript; nothing is loaded from anywhere.</p></noscript>'
    )


def _details(run: RunRecord) -> str:
    def fold(title: str, text: str) -> str:
        return f'<details class="more"><summary>{title}</summary><pre>{escape(text)}</pre></details>' if text else ""

    return (
        fold("Recipe, every value written out", run.config_text)
        + fold("Source it ran from", run.source_text)
        + fold("Summary", json.dumps(run.summary, indent=1, ensure_ascii=False) if run.summary else "")
    )


def _rollout_data(run: RunRecord) -> dict[str, Any]:
    """Return what the page's script draws."""
    trees = run.path / "trees"
    shown, total = pick(TreeStore(trees)) if trees.is_dir() else ([], 0)
    table = TokenTable(find_pieces(run.path, run.config))
    rollouts = [view(each, table) for each in shown]
    return {"words": table.words, "total": total, "rollouts": rollouts}


def _empty(text: str) -> str:
    return f'<p class="empty">{escape(text)}</p>'


def _asset(name: str) -> str:
    return (files("palmette.report") / name).read_text(encoding="utf-8")
