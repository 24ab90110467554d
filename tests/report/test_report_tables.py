"""The headline table says what the summary says, in all three forms."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from palmette.report.tables import as_html, as_markdown, as_rich, headline

DOMAINS = {
    "swe": {"base": 0.25, "base_interval": [0.1, 0.4], "expert": 0.75, "expert_interval": [0.6, 0.875], "student": 0.5},
    "terminal": {"base": 0.0, "base_interval": [None, None], "student": None, "expert": 0.0},
}


def test_gains_and_shares():
    table = headline(DOMAINS)
    assert table.models == ("base", "expert", "student")
    assert table.gain_points("swe") == pytest.approx(50.0)
    assert table.kept("swe") == pytest.approx(2 / 3)
    assert table.gain_points("terminal") == 0.0
    assert table.kept("terminal") is None  # nothing to keep of an expert that solves nothing


def test_markdown_is_exact():
    assert as_markdown(headline(DOMAINS)) == (
        "| domain | base | expert | student | expert − base | student / expert |\n"
        "|---|---:|---:|---:|---:|---:|\n"
        "| swe | 25.0 (10–40) | 75.0 (60–88) | 50.0 | +50.0 | 67 % |\n"
        "| terminal | 0.0 | 0.0 | – | +0.0 | – |\n"
    )


def test_html_draws_the_numbers_it_writes():
    html = as_html(headline(DOMAINS | {"<x>": {"base": 1.0}}))
    assert "&lt;x&gt;" in html
    assert "<x>" not in html
    assert re.search(r"<b>75\.0</b> <small[^>]*>60–88</small>.*?width:75\.0%.*?left:60\.0%;width:27\.5%", html)


def test_rich_holds_every_number():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(as_rich(headline(DOMAINS)))
    text = console.export_text()
    console.file.close()
    for number in ("25.0", "10–40", "75.0", "50.0", "+50.0", "67 %"):
        assert number in text


def test_many_models_fit_a_terminal_of_80_columns():
    names = ("base", "sft", "expert", "average", "offline_sft", "mixed_rl", "by_evidence", "student")
    scores = {name: 0.5 + 0.01 * number for number, name in enumerate(names)}
    domains = ("terminal", "swe", "web", "search", "general")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_rich(headline({domain: {**scores, "base_interval": [0.4, 0.6]} for domain in domains})))
    lines = console.export_text().splitlines()
    for name, share in scores.items():
        (line,) = (line for line in lines if line.startswith(f"  {name}  "))
        assert line.count(f"{100 * share:.1f}") == 5
    (head,) = (line for line in lines if line.startswith("  model "))
    assert head.split() == ["model", *domains]
