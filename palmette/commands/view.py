"""``palmette view``: where a run stands, on the terminal and as a page."""

from __future__ import annotations

import json
from pathlib import Path

from palmette.commands.locate import find_run
from palmette.report.html import write_report
from palmette.report.load import load_run
from palmette.report.text import print_run


def view(name: str, *, runs: Path, as_json: bool) -> None:
    """Print a run and write its ``report.html`` anew. Raises `UserError` when there is no such run."""
    run = find_run(name, runs)
    if as_json:
        record = load_run(run.path)
        stages = [
            {"name": s.name, "finished": s.finished, "steps": s.steps, "seconds": s.seconds} for s in record.stages
        ]
        print(json.dumps({"run": str(run.path), "state": record.state, "stages": stages, "summary": record.summary}))
        return
    write_report(run.path)
    print_run(run.path)
