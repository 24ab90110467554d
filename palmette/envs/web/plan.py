"""Writes what the judge is to find on pages: the `tests/` of a task (for the steps see `judge.steps`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
Step = dict[str, Any]

TEST_SCRIPT = """\
#!/bin/sh
exec python3 -I -S -c "import sys; sys.path.insert(0, '/tests'); from judge.main import main; main()"
"""
MEMORY_MB, STORAGE_MB, PIDS = 1024, 256, 256  # what a browser needs beside what any sandbox has
EVIDENCE = ("report.json", "desktop.png", "phone.png")
AXE_CORE = {  # MPL-2.0; in the user's cache and beside the tests while they run, in no task's directory
    "package": "axe-core@4.14.1",
    "path": "axe.min.js",
    "sha256": "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is to hold in a fresh tab of one size: steps that look and act, in order; the first opens a page.

    The files in `instead` are served in place of those of the site: a page that reads its data shows other data then.
    """

    name: str
    steps: Sequence[Step]
    size: str = "desktop"
    within_s: float = 1.0  # how long a look is tried again
    instead: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that decides about a site: files it needs, files that stay as they are or must not, and goals.

    `reward` is "all" (1 when every goal is reached, else 0), "share" (of the goals) or "all_times_looks": all, times
    the least overall score of the pages in `looks`, at both sizes, by `looks_bar`, at most 1.
    """

    goals: Sequence[Goal]
    needs: Sequence[str] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    reward: str = "all"
    looks: Sequence[str] = ()
    looks_bar: float = 1.0
    limit_s: float = 150.0
    load_s: float = 10.0  # what one page may take

    def files(self) -> dict[str, str]:
        """Return the files of `tests/`."""
        goals = [{**asdict(goal), "steps": list(goal.steps), "instead": dict(goal.instead)} for goal in self.goals]
        plan = {
            "workdir": "/app",
            "limit_s": self.limit_s,
            "load_s": self.load_s,
            "reward": self.reward,
            "looks": list(self.looks),
            "looks_bar": self.looks_bar,
            "needs": list(self.needs),
            "kept": dict(self.kept),
            "given": dict(self.given),
            "goals": goals,
        }
        files = {"test.sh": TEST_SCRIPT, **judge_files(), "checks.json": json.dumps(plan, indent=1) + "\n"}
        if any(step["do"] == "axe" for goal in self.goals for step in goal.steps):
            files["npm.json"] = json.dumps({"axe.min.js": AXE_CORE}, indent=1) + "\n"
        return files


@cache
def judge_files() -> dict[str, str]:
    """Return the judge's own files, by path below `tests/`."""
    return {f"judge/{path.name}": path.read_text(encoding="utf-8") for path in sorted((_HERE / "judge").glob("*.py"))}


def opened(path: str) -> Step:
    """Open a page."""
    return {"do": "open", "path": path}


def see(selector: str, **what: Any) -> Step:
    """Elements are there and can be seen, with these texts, attributes, styles (see `judge.steps`)."""
    return {"do": "see", "selector": selector, **what}


def click(selector: str, **what: Any) -> Step:
    """Click the only element that matches."""
    return {"do": "click", "selector": selector, **what}


def press(key: str, **how: Any) -> Step:
    """Press a key, on what has the focus."""
    return {"do": "press", "key": key, **how}


def typed(selector: str, text: str, **how: Any) -> Step:
    """Click a field and type into it, at its end; with `anew` what was in it goes first."""
    return {"do": "type", "selector": selector, "text": text, **how}


QUIET: Step = {"do": "quiet"}
FITS: Step = {"do": "fits"}
ACCESSIBLE: Step = {"do": "accessible"}
AXE: Step = {"do": "axe"}
SOUND = (FITS, ACCESSIBLE, AXE)  # what any page is, small as the window may be
