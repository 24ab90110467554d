"""A run on the terminal: the same story as the page, in tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from palmette.report.load import RunRecord, load_run
from palmette.report.pick import kind_of
from palmette.report.tables import as_rich, headline
from palmette.trajectory.store import TreeStore

_NUMBERS = ("success", "loss", "teacher_kl")  # of a stage's last step


def print_run(run_path: Path, console: Console | None = None, *, rollouts: int = 12) -> None:
    """Print a run: its state, scores, stages with their last numbers, and `rollouts` of its rollouts.

    Raises `UserError` when `run_path` is no run.
    """
    console = console or Console()
    run = load_run(run_path)
    console.print(Panel.fit(_head(run), title=f"[bold]{run.name}[/bold]", title_align="left", border_style="green"))
    if run.domains:
        console.print(as_rich(headline(run.domains)))
    if run.stages:
        console.print(_stages(run))
    trees = run.path / "trees"
    shown, counts, total = _some(list(TreeStore(trees).metadata()), rollouts) if trees.is_dir() else ([], {}, 0)
    if shown:
        console.print(_rollouts(shown, total))
        console.print(Text("outcomes: " + ", ".join(f"{count} {name}" for name, count in counts.items()), style="dim"))
    report = run.path / "report.html"
    console.print(Text(f"report: {report}" if report.is_file() else "report: not written yet", style="dim"))


def duration(seconds: float) -> str:
    """Return a time a person reads at a glance.

    >>> duration(4.2), duration(125), duration(7380)
    ('4.2 s', '2 m 05 s', '2 h 03 m')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


def _head(run: RunRecord) -> Text:
    facts = {
        "state": run.state,
        "date": run.summary.get("date"),
        "machine": run.summary.get("machine"),
        "held-out tasks": run.tasks_held_out,
        "time": duration(60 * run.summary["minutes"]) if "minutes" in run.summary else None,
        "peak memory": f"{run.summary['peak_memory_gb']:.1f} GB" if "peak_memory_gb" in run.summary else None,
    }
    known = [(name, str(value)) for name, value in facts.items() if value is not None]
    width = max(len(name) for name, _ in known)
    return Text("\n").join(Text.assemble((f"{name:<{width}}  ", "dim"), value) for name, value in known)


def _stages(run: RunRecord) -> Table:
    last = {stage.name: {each.name: each.values_T[-1] for each in run.series(stage.name)} for stage in run.stages}
    columns = [name for name in _NUMBERS if any(name in numbers for numbers in last.values())]
    title = "stages, with the numbers of their last step"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("stage", no_wrap=True)
    for name in ("steps", "time", *columns):
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for stage in run.stages:
        name = Text(stage.name) if stage.finished else Text.assemble(stage.name, (" unfinished", "yellow"))
        time = duration(stage.seconds) if stage.seconds is not None else "–"
        numbers = [f"{last[stage.name][column]:.3g}" if column in last[stage.name] else "–" for column in columns]
        table.add_row(name, str(stage.steps or "–"), time, *numbers)
    return table


def _some(metadata: list[dict[str, Any]], most: int) -> tuple[list[dict[str, Any]], dict[str, int], int]:
    """Return the latest rollout of every kind (at most `most`), how often each outcome came, and how many there are."""
    latest = {kind_of(each): each for each in metadata}
    counts: dict[str, int] = {}
    for each in metadata:
        counts[str(each.get("outcome"))] = counts.get(str(each.get("outcome")), 0) + 1
    return list(latest.values())[:most], dict(sorted(counts.items(), key=lambda item: -item[1])), len(metadata)


def _rollouts(shown: list[dict[str, Any]], total: int) -> Table:
    title = f"{len(shown)} of {total} rollouts, one of a kind"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for name in ("stage", "model", "task", "outcome"):
        table.add_column(name, overflow="fold", no_wrap=name == "outcome")
    for name in ("reward", "turns", "tokens"):
        table.add_column(name, justify="right")
    for each in shown:
        reward = each.get("reward")
        style = "yellow" if reward is None else "green" if reward >= 1 else "red"
        table.add_row(
            str(each.get("stage", "–")),
            str(each.get("model", "–")),
            str(each.get("task", "–")).split("/")[-1],
            Text(str(each.get("outcome")), style=style),
            Text("absent" if reward is None else f"{reward:g}", style=style),
            str(each.get("turns", "–")),
            str(each.get("sampled_tokens", "–")),
        )
    return table
