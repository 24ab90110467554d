"""Writes what the judge is to find: the `tests/` of a generated task (see `palmette.envs.judge` for the kinds)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
Check = dict[str, Any]

TEST_SCRIPT = "#!/bin/sh\nexec python3 -I -S /tests/judge.py\n"
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "log.showSignature=false")


def judged(goals: Iterable[tuple[str, list[Check]]]) -> dict[str, str]:
    """Return the files of `tests/` for named goals, each of which needs all of its checks."""
    plan = {"workdir": "/app", "goals": [{"name": name, "checks": checks} for name, checks in goals]}
    return {"test.sh": TEST_SCRIPT, "judge.py": _judge(), "checks.json": json.dumps(plan, indent=1) + "\n"}


def text(path: str, content: str) -> Check:
    """A regular file holds `content`; white space at its end does not count."""
    return {"kind": "text", "path": path, "text": content}


def absent(path: str) -> Check:
    """Nothing of that name is there."""
    return {"kind": "absent", "path": path}


def runs(*argv: str, prints: str | None = None, timeout_s: float = 10.0, **more: Any) -> Check:
    """A program exits with 0 (or `exit`) and prints `prints`; `give`, `stdin` and `then` as the judge has them."""
    return {"kind": "run", "argv": list(argv), "stdout": prints, "timeout_s": timeout_s, **more}


def git(folder: str, *arguments: str, prints: str) -> Check:
    """Git, run without what the repository's own settings could make it run, prints this."""
    return runs(*_GIT, "-C", folder, *arguments, prints=prints)


@cache
def _judge() -> str:
    return (_HERE / "judge.py").read_text(encoding="utf-8")
