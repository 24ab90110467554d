"""What tasks cost and how they hold: built an hour, rejected, graded, attacked; by domain and tiers.

    python benchmarks/envs.py [--count N] [--attacked N] [--domain NAME] [--json PATH] [--quick]
    python benchmarks/envs.py --domain swe-real --from ENVS     (projects built by: palmette tasks repo NAME --out ENVS)

Rows are {domain, tiers, metric, value, unit}. An hour is wall time of this machine, as it is loaded now:
`built_per_hour` counts writing a task, `verified_per_hour` writing it, scoring its reference and doing nothing.
`grading_*` is from the end of the agent to the verdict: taking the files out, a clean sandbox, the verifier. The bound
is the domain ``bound``: a verifier that writes a number and nothing else. Attacks and three verdicts are tried on the
first `--attacked` tasks. Of real projects `candidates_rejected` says which share of the changes that were tried is no
bug, a row "no bug: ..." each reason's share of those, and `built_per_hour` includes finding the bugs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from palmette.envs.api import Draft, Step, Task
from palmette.envs.attacks import attacks_on
from palmette.envs.build import build_tasks, drafts
from palmette.envs.check import IDLE, REFERENCE, CheckReport, check_tasks
from palmette.envs.swe.real.built import load_all
from palmette.envs.swe.real.make import TIERS, make_tasks
from palmette.envs.task import write_task
from palmette.sandbox.api import Host
from palmette.sandbox.hosts import open_host

Row = dict[str, str | float]
_WAYS = 4
_QUICK = 6, 1  # tasks a group, and how many of them are attacked
REAL = "swe-real"
GROUPS = (
    ("terminal", (1,)),
    ("terminal", (2, 3, 4)),
    ("terminal", (5, 6, 7, 8)),
    ("swe", (1,)),
    ("swe", (2, 3)),
    ("general", (1,)),
    ("general", (2, 3)),
    ("general", (4, 5, 6)),
    ("search", (1,)),
    ("search", (2, 3)),
    ("search", (4, 5)),
    ("search", (6,)),
    ("web", (1,)),
    ("web", (2,)),
    ("web", (3, 4)),
    ("web", (5, 6)),
)


def main() -> None:
    """Measure, print, and write the rows down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=120, help="tasks a group")
    parser.add_argument("--attacked", type=int, default=20, help="tasks a group that are attacked")
    parser.add_argument("--domain", help="only groups of this domain")
    parser.add_argument("--from", dest="envs", type=Path, metavar="ENVS", help=f"built projects, for {REAL}")
    parser.add_argument("--quick", action="store_true", help="few tasks: to see that it runs")
    parser.add_argument("--json", metavar="PATH", help="also write the rows to this file")
    arguments = parser.parse_args()
    if (arguments.domain == REAL) != bool(arguments.envs):
        parser.error(f"--domain {REAL} and --from go together")
    count, attacked = _QUICK if arguments.quick else (arguments.count, arguments.attacked)
    scratch = Path(tempfile.mkdtemp(prefix="palmette-envs-"))
    try:
        rows = asyncio.run(measure(scratch, count, attacked, arguments.domain, arguments.envs))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for row in rows:
        print(f"{row['domain']:10} {row['tiers']:10} {row['metric']:40} {row['value']:12.4g} {row['unit']}")
    if arguments.json:
        temporary = Path(arguments.json + ".new")
        temporary.write_text(json.dumps(rows, indent=1))
        temporary.replace(arguments.json)


async def measure(
    scratch: Path, count: int, attacked: int, only: str | None = None, envs: Path | None = None
) -> list[Row]:
    """Return the rows of the bound and of all groups; those of real projects where `envs` holds some."""
    host = open_host("namespace")
    try:
        bound = [
            write_task(replace(_bound(n), name=f"bound/{n}"), scratch / f"bound{n}") for n in range(min(count, 40))
        ]
        await check_tasks(bound[:1], host)  # the first start of a machine compiles
        graded = await check_tasks(bound, host, concurrency=_WAYS)
        rows = _grading("bound", "-", graded)
        for domain, tiers in [group for group in GROUPS if only in (None, group[0])]:
            began_s = time.monotonic()
            tasks = build_tasks(
                domain, scratch / f"{domain}{tiers[0]}", count=count, tiers=tiers, split="train", seed=1
            )
            built_s = time.monotonic() - began_s
            rows += await _group(host, domain, ",".join(map(str, tiers)), tasks, built_s, attacked)
        if envs:
            began_s = time.monotonic()
            tasks, rejected = await _of_projects(host, envs, scratch / REAL, count)
            label = ",".join(map(str, TIERS))
            rows += await _group(host, REAL, label, tasks, time.monotonic() - began_s, attacked)
            rows += _no_bugs(label, len(tasks), rejected)
    finally:
        await host.close()
    return rows


async def _group(
    host: Host, domain: str, label: str, tasks: Sequence[Task], built_s: float, attacked: int
) -> list[Row]:
    began_s, count = time.monotonic(), len(tasks)
    honest = await check_tasks(tasks, host, concurrency=_WAYS)
    verified_s = built_s + time.monotonic() - began_s
    rejected = sum(not report.ok for report in honest)
    hard = await check_tasks(tasks[:attacked], host, attacks=attacks_on, repeats=3, concurrency=_WAYS)
    return [
        _row(domain, label, "built_per_hour", count / built_s * 3600, "tasks/h"),
        _row(domain, label, "verified_per_hour", (count - rejected) / verified_s * 3600, "tasks/h"),
        _row(domain, label, "rejected", rejected / count, "share"),
        *_grading(domain, label, honest),
        *_attacks(domain, label, hard),
        _row(domain, label, "size", statistics.mean(map(_kib, tasks)), "KiB"),
        _row(domain, label, "reference_steps", statistics.mean(t.complexity.steps or 0 for t in tasks), "calls"),
        _row(domain, label, "reference_tokens", statistics.mean(t.complexity.tokens or 0 for t in tasks), "words"),
    ]


async def _of_projects(host: Host, envs: Path, place: Path, count: int) -> tuple[list[Task], Counter[str]]:
    """Return tasks of all projects, one of each in turn, and why how many candidates were none."""
    projects, rejected = load_all(envs), Counter[str]()
    each = [
        await make_tasks(built, host, place, count=-(-count // len(projects)), tiers=TIERS, seed=1)
        for built in projects[:count]
    ]
    for made in each:
        rejected += made.rejected
    turns = itertools.zip_longest(*(made.tasks for made in each))
    tasks = [task for turn in turns for task in turn if task]
    if not tasks:
        raise SystemExit(f"no bugs were found in the {len(projects)} projects of {envs}")
    return tasks[:count], rejected


def _no_bugs(label: str, found: int, rejected: Counter[str]) -> list[Row]:
    total = sum(rejected.values())
    return [
        _row(REAL, label, "candidates_rejected", total / (total + found), "share"),
        *(_row(REAL, label, f"no bug: {why}", number / total, "share") for why, number in rejected.most_common()),
    ]


def _bound(number: int) -> Draft:
    """Return a task whose verifier does next to nothing."""
    (draft,) = drafts("terminal", count=1, tiers=[1], split="train", seed=number)
    test = "mkdir -p /logs/verifier; if [ -e done ]; then echo 1; else echo 0; fi > /logs/verifier/reward.txt\n"
    step = Step(tool="bash", arguments={"command": "touch done"}, observation="(no output)")
    return replace(draft, steps=(step,), test_files={"test.sh": test})


def _grading(domain: str, tiers: str, reports: Sequence[CheckReport]) -> list[Row]:
    times = sorted(trial.grading_s * 1e3 for report in reports for trial in report.trials)
    p95 = times[min(len(times) - 1, int(len(times) * 0.95))]
    return [
        _row(domain, tiers, "grading_p50", statistics.median(times), "ms"),
        _row(domain, tiers, "grading_p95", p95, "ms"),
    ]


def _attacks(domain: str, tiers: str, reports: Sequence[CheckReport]) -> list[Row]:
    tried = [trial for report in reports for trial in report.trials if trial.name not in (IDLE, REFERENCE)]
    agreed = ["then" not in report.reason for report in reports]
    return [
        _row(domain, tiers, "attacks_tried", len(tried), "attempts"),
        _row(domain, tiers, "attacks_passed", sum(trial.reward != 0.0 for trial in tried), "attempts"),
        _row(domain, tiers, "verdicts_agree", statistics.mean(agreed), "share of tasks"),
    ]


def _kib(task: Task) -> float:
    return sum(path.stat().st_size for path in task.path.rglob("*") if path.is_file()) / 1024


def _row(domain: str, tiers: str, metric: str, value: float, unit: str) -> Row:
    return {"domain": domain, "tiers": tiers, "metric": metric, "value": value, "unit": unit}


if __name__ == "__main__":
    main()
