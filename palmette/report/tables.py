"""The headline table, one row a domain and one column a model: for the terminal, for HTML, and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from palmette.report.load import MODELS

_ACROSS = 4  # models that a terminal of 80 columns has room for side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A pass@1 in 0..1 and its 95 % interval; None where the run has no such number."""

    share: float | None
    interval: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        """The share in per cent, or a dash."""
        return "–" if self.share is None else f"{100 * self.share:.1f}"

    @property
    def range_text(self) -> str:
        """The interval in per cent, or nothing."""
        return "" if self.interval is None else f"{100 * self.interval[0]:.0f}–{100 * self.interval[1]:.0f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """Rows of cells; `models` are the columns that have a number in any domain.

    `gain_points` is expert minus base, `kept` student over expert; None where one of the two is missing (or zero).
    """

    models: tuple[str, ...]
    rows: dict[str, dict[str, Cell]]

    def gain_points(self, domain: str) -> float | None:
        """Return how many points the expert is ahead of the base."""
        base, expert = self._share(domain, "base"), self._share(domain, "expert")
        return None if base is None or expert is None else 100 * (expert - base)

    def kept(self, domain: str) -> float | None:
        """Return which share of the expert's score the student reaches."""
        expert, student = self._share(domain, "expert"), self._share(domain, "student")
        return None if not expert or student is None else student / expert

    def _share(self, domain: str, model: str) -> float | None:
        cell = self.rows[domain].get(model)
        return cell.share if cell else None


def headline(domains: Mapping[str, Mapping[str, Any]]) -> Headline:
    """Return the table of ``summary.json``'s "domains": ``{name: {model: pass@1, model_interval: [lo, hi]}}``."""
    rows = {
        domain: {model: _cell(scores, model) for model in MODELS if scores.get(model) is not None}
        for domain, scores in domains.items()
    }
    return Headline(models=tuple(m for m in MODELS if any(m in row for row in rows.values())), rows=rows)


def as_rich(table: Headline, title: str = "pass@1 on held-out tasks, %") -> Table:
    """Return the table for a terminal, a line a domain, or where there are many models a line a model."""
    lines: list[list[str | Text]] = [["domain", *table.models, "expert − base", "student / expert"]]
    for domain, cells in table.rows.items():
        shown = [cells.get(model, Cell(share=None)) for model in table.models]
        texts = [Text.assemble((each.text, "bold"), (f"  {each.range_text}".rstrip(), "dim")) for each in shown]
        lines.append([domain, *texts, _points(table.gain_points(domain)), _percent(table.kept(domain))])
    if len(table.models) > _ACROSS:
        lines = [list(line) for line in zip(*lines, strict=True)]
        lines[0][0] = "model"
    grid = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for number, head in enumerate(lines[0]):
        grid.add_column(head, no_wrap=not number, justify="right" if number else "left")
    for line in lines[1:]:
        grid.add_row(*line)
    return grid


def as_markdown(table: Headline) -> str:
    """Return the table in Markdown, as the README shows it."""
    head = ["domain", *table.models, "expert − base", "student / expert"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for domain, cells in table.rows.items():
        shown = [cells.get(model, Cell(share=None)) for model in table.models]
        texts = [f"{each.text} ({each.range_text})" if each.range_text else each.text for each in shown]
        lines.append(
            f"| {' | '.join([domain, *texts, _points(table.gain_points(domain)), _percent(table.kept(domain))])} |"
        )
    return "\n".join(lines) + "\n"


def as_html(table: Headline) -> str:
    """Return the table as HTML; every score carries a bar with its interval (styled by the report's CSS)."""
    models = "".join(f'<th scope="col" class="num"><i class="key {m}"></i>{m}</th>' for m in table.models)
    rows = []
    for domain, cells in table.rows.items():
        shown = "".join(_score_html(model, cells.get(model, Cell(share=None))) for model in table.models)
        rows.append(
            f'<tr><th scope="row">{escape(domain)}</th>{shown}'
            f'<td class="num derived" data-label="expert − base">{_points(table.gain_points(domain))}</td>'
            f'<td class="num derived" data-label="student / expert">{_percent(table.kept(domain))}</td></tr>'
        )
    return (
        f'<table class="headline"><thead><tr><th scope="col">domain</th>{models}'
        '<th scope="col" class="num">expert − base</th><th scope="col" class="num">student / expert</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _score_html(model: str, cell: Cell) -> str:
    if cell.share is None:
        return f'<td class="num none" data-label="{model}">–</td>'
    bar = f'<span class="fill" style="width:{100 * cell.share:.1f}%"></span>'
    if cell.interval is not None:
        low, high = cell.interval
        bar += f'<span class="range" style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></span>'
    spread = f'<small title="95 % interval">{cell.range_text}</small>' if cell.range_text else ""
    return (
        f'<td class="num" data-label="{model}"><b>{cell.text}</b> {spread}'
        f'<span class="meter {model}" aria-hidden="true">{bar}</span></td>'
    )


def _cell(scores: Mapping[str, Any], model: str) -> Cell:
    share, bounds = float(scores[model]), scores.get(f"{model}_interval")
    if bounds is None or None in bounds:
        return Cell(share=share)
    return Cell(share=share, interval=(float(bounds[0]), float(bounds[1])))


def _points(points: float | None) -> str:
    return "–" if points is None else f"{points:+.1f}".replace("-", "−")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
