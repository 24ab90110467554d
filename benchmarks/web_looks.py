"""Does the score of looks see what is spoilt? Twelve good pages, each spoilt in fourteen ways, at both sizes.

    python benchmarks/web_looks.py [--pages tuned|heldout|all] [--json PATH]

Prints for every way in how many pairs the original is above its spoilt copy, and how far each score falls on average.
The scores were written and tried on the pages of `TUNED`; those of `HELDOUT` were first measured when they
were done. Rows are {spoilt, metric, value}. The pages are ours, so the browser runs without a sandbox.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from palmette.envs.web.judge.browser import Browser
from palmette.envs.web.judge.looks import SCORES, judged
from palmette.envs.web.judge.page import SIZES, Page
from palmette.envs.web.judge.site import Site
from palmette.envs.web.judge.view import view

PAGES = Path(__file__).parents[1] / "tests" / "envs" / "looks"
TUNED = ("article", "dashboard", "slide_dark", "bars", "form", "pricing")
HELDOUT = ("portfolio", "slide_light", "lines", "table", "docs", "landing")
_CHOICES = {"tuned": TUNED, "heldout": HELDOUT, "all": TUNED + HELDOUT}
Scores = dict[str, float]


def main() -> None:
    """Measure, print, and write the rows down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", choices=_CHOICES, default="all")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    arguments = parser.parse_args()
    spoils = json.loads((PAGES / "spoils.json").read_text())
    began_s = time.monotonic()
    pairs = compare(_CHOICES[arguments.pages], spoils, tuple(SIZES))
    seconds = time.monotonic() - began_s
    rows: list[dict[str, str | float]] = []
    for name in spoils:
        mine = [(good, bad) for kind, good, bad in pairs if kind == name]
        above = statistics.mean(good["overall"] > bad["overall"] for good, bad in mine)
        falls = {each: statistics.mean(good[each] - bad[each] for good, bad in mine) for each in SCORES}
        rows += [{"spoilt": name, "metric": "above", "value": above}]
        rows += [{"spoilt": name, "metric": each, "value": fall} for each, fall in falls.items()]
        told = ", ".join(f"{each} {fall:+.2f}" for each, fall in falls.items() if abs(fall) >= 0.02)
        print(f"{name:24} {above:5.0%} of {len(mine)}   {told}")
    above = statistics.mean(good["overall"] > bad["overall"] for _, good, bad in pairs)
    print(
        f"{'all':24} {above:5.1%} of {len(pairs)} pairs, {seconds / len(pairs):.2f} s a pair with this machine's load"
    )
    rows.append({"spoilt": "all", "metric": "above", "value": above})
    if arguments.json:
        temporary = Path(arguments.json + ".new")
        temporary.write_text(json.dumps(rows, indent=1))
        temporary.replace(arguments.json)


def compare(names: tuple[str, ...], spoils: dict[str, str], sizes: tuple[str, ...]) -> list[tuple[str, Scores, Scores]]:
    """Return (way of spoiling, scores of the original, scores of the spoilt copy) for every page, way and size."""
    found: list[tuple[str, Scores, Scores]] = []
    browser = Browser()
    try:
        with tempfile.TemporaryDirectory() as root:
            for name in names:
                page = (PAGES / f"{name}.html").read_text()
                for size in sizes:
                    good = look(browser, Path(root), page, size)
                    for kind, css in spoils.items():
                        bad = page.replace("</head>", f"<style>{css}</style></head>")
                        found.append((kind, good, look(browser, Path(root), bad, size)))
    finally:
        browser.close()
    return found


def look(browser: Browser, root: Path, text: str, size: str) -> Scores:
    """Return the scores of one page."""
    (root / "page.html").write_text(text)
    page = Page(browser, Site(str(root)), size)
    try:
        page.open("page.html")
        return judged(view(page))
    finally:
        page.close()


if __name__ == "__main__":
    main()
