"""The pictures of a run: scores with their intervals, and the curves of its stages.

One figure serves a page and a file: `to_svg` puts CSS variables where the colours are, so that inlined pictures follow
the page's light or dark scheme; `to_png` writes the light one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from palmette.report.load import MODELS, RunRecord, Series
from palmette.report.tables import Cell, headline
from palmette.run import write_atomic

# Every colour is a (light value, CSS variable) pair; the values are distinct so that each can be found in the SVG.
COLOURS = {
    "ink": "#1c2321",
    "muted": "#66706c",
    "line": "#d9dfdb",
    "base": "#98a19d",
    "sft": "#d99a2b",
    "expert": "#3b6fc4",
    "average": "#b0713f",
    "offline_sft": "#c25b7a",
    "mixed_rl": "#4f97a8",
    "by_domain": "#a09a2c",
    "by_evidence": "#6f9b3c",
    "student": "#1f8a62",
    "reward": "#8a5bb5",
}
_CURVES = {"success": "student", "mean_reward": "reward", "reward": "reward"}
_PANELS = 6  # of the picture for a README, in one row
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "palmette",
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def score_figure(cells: dict[str, Cell], width_in: float = 3.6) -> Figure:
    """Return bars of pass@1, one a model, with 95 % intervals as whiskers."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, 2.5), layout="constrained")
        _draw_scores(figure.subplots(), cells)
    return figure


def curve_figure(series: Sequence[Series], width_in: float = 3.6) -> Figure:
    """Return curves of one stage over its steps; for shares the axis is fixed to 0..1 and labelled in per cent."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, 2.2), layout="constrained")
        _draw_curves(figure.subplots(), series)
    return figure


def band_figure(curves: Sequence[tuple[Sequence[float], Sequence[float]]], width_in: float = 3.6) -> Figure:
    """Return the median of several (steps, values) curves, their quartiles as a band, and each of them thin.

    Curves are compared where the shortest has points; values between points are interpolated.
    """
    steps = min((steps for steps, _ in curves), key=len)
    values = [numpy.interp(steps, *curve) for curve in curves]
    low, middle, high = numpy.quantile(values, [0.25, 0.5, 0.75], axis=0)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, 2.2), layout="constrained")
        axes = figure.subplots()
        for each in values:
            axes.plot(steps, each, color=COLOURS["student"], lw=0.7, alpha=0.35)
        axes.fill_between(steps, low, high, color=COLOURS["student"], alpha=0.18, lw=0)
        axes.plot(steps, middle, color=COLOURS["student"], lw=2.0)
        axes.set_xlabel("environment steps")
        axes.margins(x=0.02)
        if numpy.min(values) >= 0 and numpy.max(values) <= 1:
            _percent_axis(axes)
    return figure


def overview_figure(run: RunRecord) -> Figure:
    """Return the picture for a README: scores of every domain, and the success curves of the stages.

    They stand side by side, or, where that would be too wide to read, in two rows.
    """
    table = headline(run.domains)
    curves = [(stage.name, _shares(run.series(stage.name))[:1]) for stage in run.stages]
    curves = [(name, series) for name, series in curves if series]
    rows = 2 if len(table.rows) + len(curves) > _PANELS and table.rows and curves else 1
    widths = [1.35] * len(table.rows) + [1.0] * len(curves) if rows == 1 else [1.15] * max(len(table.rows), len(curves))
    with matplotlib.rc_context(_STYLE | {"figure.facecolor": "#ffffff"}):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
        figure = Figure(figsize=(1.2 + 2.1 * sum(widths), 3.1 * rows), layout=layout)
        grid = figure.subplots(rows, len(widths), squeeze=False, sharey=True, width_ratios=widths) if widths else None
        panels: list[Axes] = [] if grid is None else list(grid.flat)
        for axes, (domain, cells) in zip(panels, table.rows.items(), strict=False):
            _draw_scores(axes, cells)
            axes.set_title(domain, loc="left", fontweight="bold")
        first = len(table.rows) if rows == 1 else len(widths)
        for axes, (name, series) in zip(panels[first:], curves, strict=False):
            _draw_curves(axes, series)
            axes.set_title(f"{series[0].name}, {name}", loc="left", fontsize=10.5)
        for axes in [*panels[len(table.rows) : first], *panels[first + len(curves) :]]:
            axes.set_visible(False)
    return figure


def charts_of(series: Sequence[Series]) -> list[list[Series]]:
    """Return what to draw of a stage, one list a picture: success and reward, or else its loss; and distances."""
    shares = _shares(series)
    others = ["teacher_kl", "kl"] if shares else ["loss"]
    found = [[each] for name in others for each in series if each.name == name and len(each.steps_T) > 1]
    return [shares, *found] if shares else found


def are_shares(series: Sequence[Series]) -> bool:
    """Whether all of these are shares of 1."""
    return all(each.name in _CURVES for each in series)


def to_svg(figure: Figure, title: str) -> str:
    """Return the figure as an SVG element to inline, its colours as CSS variables, `title` for screen readers."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, value in COLOURS.items():
        svg = svg.replace(value, f"var(--{name})")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg class="plot" viewBox="\1" role="img">', svg)
    return svg.replace(">", f"><title>{title}</title>", 1)


def to_png(figure: Figure, path: Path, dots_per_inch: int = 160) -> None:
    """Write the figure as PNG, atomically, light and on white."""
    buffer = io.BytesIO()
    figure.set_dpi(dots_per_inch)
    with matplotlib.rc_context(_STYLE):
        FigureCanvasAgg(figure).print_png(buffer)
    write_atomic(path, buffer.getvalue())


def _draw_scores(axes: Axes, cells: dict[str, Cell]) -> None:
    shown = {model: cells[model] for model in MODELS if model in cells}
    for x, (model, cell) in enumerate(shown.items()):
        share = cell.share or 0.0
        low, high = cell.interval or (share, share)
        axes.bar(x, share, width=0.62, color=COLOURS[model])
        if cell.interval:
            axes.errorbar(x, share, [[share - low], [high - share]], color=COLOURS["ink"], lw=1.1, capsize=3.5)
        axes.annotate(cell.text, (x, max(share, high)), (0, 4), textcoords="offset points", ha="center", weight="bold")
    axes.set_xticks(range(len(shown)), list(shown))
    axes.tick_params(axis="x", length=0)
    _percent_axis(axes)


def _draw_curves(axes: Axes, series: Sequence[Series]) -> None:
    shares = are_shares(series)
    for each in series:
        colour = COLOURS[_CURVES.get(each.name, "expert")]
        if shares and len(each.values_T) > 8:  # noisy: rewards of few rollouts
            axes.plot(each.steps_T, each.values_T, color=colour, lw=1.0, alpha=0.35)
            axes.plot(each.steps_T, smooth(each.values_T), color=colour, lw=2.0, label=each.name.replace("_", " "))
        else:
            axes.plot(each.steps_T, each.values_T, color=colour, lw=1.8, label=each.name.replace("_", " "))
    axes.set_xlabel("step")
    axes.margins(x=0.02)
    if shares:
        _percent_axis(axes)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9, loc="lower right", handlelength=1.2)


def smooth(values_T: Sequence[float], weight: float = 0.7) -> list[float]:
    """Return the exponential moving average of `values_T`, corrected for its start (as Adam corrects its moments)."""
    average, mass, smoothed = 0.0, 0.0, []
    for value in values_T:
        average, mass = weight * average + (1 - weight) * value, weight * mass + (1 - weight)
        smoothed.append(average / mass)
    return smoothed


def _shares(series: Sequence[Series]) -> list[Series]:
    """Return the series that are shares of 1, success before reward; those that agree everywhere are one."""
    found = [each for name in _CURVES for each in series if each.name == name and len(each.steps_T) > 1]
    distinct = []
    for each in found:
        if not any(each.values_T == other.values_T for other in distinct):
            distinct.append(each)
    return sorted(distinct, key=lambda each: each.name != "success")


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.12)  # room for the number above a full bar
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
