"""Pictures whose bars and lines have the heights of the numbers."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from palmette.report.load import Series, load_run
from palmette.report.plots import (
    COLOURS,
    charts_of,
    curve_figure,
    overview_figure,
    score_figure,
    smooth,
    to_png,
    to_svg,
)
from palmette.report.tables import Cell


def series(name: str, *values: float) -> Series:
    return Series(stage="s", name=name, steps_T=tuple(range(len(values))), values_T=values)


def test_bars_and_whiskers_are_the_scores():
    figure = score_figure({"base": Cell(share=0.25, interval=(0.125, 0.5)), "student": Cell(share=0.75)})
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [0.25, 0.75]  # pyright: ignore[reportAttributeAccessIssue]
    (whisker,) = axes.collections
    assert whisker.get_segments()[0][:, 1].tolist() == [0.125, 0.5]  # pyright: ignore[reportAttributeAccessIssue]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["base", "student"]


def test_curves_are_the_values_and_shares_are_on_a_fixed_axis():
    (axes,) = curve_figure([series("success", 0.2, 0.4, 0.6)]).axes
    assert axes.lines[0].get_ydata().tolist() == [0.2, 0.4, 0.6]  # pyright: ignore[reportAttributeAccessIssue]
    assert axes.get_ylim() == (0, 1.12)
    (axes,) = curve_figure([series("loss", 5.0, 3.0)]).axes
    assert axes.get_ylim()[1] >= 5


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant():
    assert smooth([0.5] * 5) == pytest.approx([0.5] * 5)
    # weights 0.3 and 0.21, corrected by 1 - 0.49
    assert smooth([1.0, 0.0], weight=0.7) == pytest.approx([1.0, 0.21 / 0.51])


def test_what_is_drawn_of_a_stage():
    shares = [series("loss", 1.0, 2.0), series("mean_reward", 0.1, 0.2), series("success", 0.1, 0.3)]
    assert [[each.name for each in chart] for chart in charts_of(shares)] == [["success", "mean_reward"]]
    equal = [series("mean_reward", 0.1, 0.2), series("success", 0.1, 0.2), series("teacher_kl", 3.0, 1.0)]
    assert [[each.name for each in chart] for chart in charts_of(equal)] == [["success"], ["teacher_kl"]]
    assert [[each.name for each in chart] for chart in charts_of([series("loss", 1.0, 2.0)])] == [["loss"]]
    assert charts_of([series("success", 0.5)]) == []  # one point is no curve


def test_inlined_pictures_follow_the_page_and_stay_readable():
    svg = to_svg(score_figure({"base": Cell(share=0.5, interval=(0.2, 0.8))}), "pass@1 by model")
    ElementTree.fromstring(svg.replace("xlink:href", "href"))  # well-formed
    assert not any(colour in svg for colour in COLOURS.values())
    assert "var(--base)" in svg
    assert "<title>pass@1 by model</title>" in svg
    assert ">50.0<" in svg  # text is text, not paths


def test_the_readme_picture_is_written_whole(run_path: Path, tmp_path: Path):
    to_png(overview_figure(load_run(run_path)), tmp_path / "out" / "demo.png")
    data = (tmp_path / "out" / "demo.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 20_000
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["demo.png"]
