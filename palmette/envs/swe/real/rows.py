"""Makes a task of a SWE-bench row and a clone: an environment for its commit, its lists of tests recomputed here.

Fail-to-pass are the tests that fail before the gold patch and pass after it, pass-to-pass those that see the same both
times; the row's own lists are only compared with them. Tests are sealed as those of other real projects, as far as they
can be: an upstream bug may show in nothing but an exception, and then only the test's outcome decides.
"""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from palmette.envs.api import Draft
from palmette.envs.locked import versions
from palmette.envs.patch import applying
from palmette.envs.swe.real.bench import WORKDIR, read_tree
from palmette.envs.swe.real.bugs import Bug, Candidate, Hunt, Terms
from palmette.envs.swe.real.build import measure
from palmette.envs.swe.real.built import Built
from palmette.envs.swe.real.checkout import Checkout, check_out
from palmette.envs.swe.real.languages import LANGUAGES
from palmette.envs.swe.real.tasks import MEMORY_MB, PIDS, STORAGE_MB, tests_of
from palmette.errors import UserError
from palmette.sandbox.api import Host

_PYTHON = "3.9"  # what SWE-bench's own recipes use for nearly all
_NEWER = "2024"  # from then on, projects say themselves which they want
_EARLIEST = datetime.date(2019, 12, 1)  # before, hardly anything can be had for that Python
_WHEELS = datetime.date(2021, 12, 1)  # by then, nearly everything had wheels for it
_OPTIONS = ("-m", "not slow")  # what projects leave out themselves
_TERMS = Terms(most_failing=10_000, least_hidden=0, told=False, absent=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """What a row says that matters here; the two lists are only compared with what comes of it."""

    key: str
    repo: str
    commit: str
    issue: str
    gold: str
    tests: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]


async def task_of_row(row: BenchRow, clone: Path, host: Host) -> Draft:
    """Return the task of a row. Raises `UserError` with the reason when it cannot be built."""
    scratch = Path(tempfile.mkdtemp(prefix="palmette-row-"))
    try:
        taken = check_out(clone, row.commit, scratch / "tree")
        base = read_tree(scratch / "tree")
        right = _patched(scratch / "tree", row)
        built = await _built(row, taken, right, scratch / "tree", host)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    changed = {path: base[path].decode() for path in sorted(_touched(row.gold)) if path in base}
    if not changed:
        raise UserError(f"{row.key}: its gold patch changes no file that is there before it")
    async with Hunt(host, built, _TERMS) as hunt:
        bugs = [bug async for bug in hunt.bugs([Candidate(kind="issue", files=changed, where="")])]
        if not bugs:
            raise UserError(f"{row.key}: without its gold patch, {next(iter(hunt.rejected), 'no test fails')}")
        return _draft(row, built, bugs[0], tests_of(built, bugs[0], hunt.sealed), base)


async def _built(row: BenchRow, taken: Checkout, right: Mapping[str, bytes], tree: Path, host: Host) -> Built:
    """Measure the tests that the row's test patch touches, in an environment of the row's time."""
    language = LANGUAGES["python"]
    project = language.discover(tree)
    tests = tuple(sorted(p for p in _touched(row.tests) if p in right and p.endswith(".py") and _has_tests(right[p])))
    if project is None or not tests:
        raise UserError(f"{row.key}: its test patch touches no test file of Python")
    project = replace(
        project,
        name=row.repo.rpartition("/")[2],
        tests=tests,
        wished=(),  # what its tests need besides, their failures tell; old lists of wishes take pip minutes
        pythons=f"=={_PYTHON}.*" if taken.day < _NEWER and _PYTHON in versions() else project.pythons,
        before=_days(taken.day),
        options=project.options
        if any(each.startswith("-m") for each in project.options)
        else (*project.options, *_OPTIONS),
        version=project.version if project.version[:1].isdigit() and project.version != "0" else taken.version,
    )
    return await measure(host, language, project, right, fewest=1)


def _days(committed: str) -> tuple[str, ...]:
    """Return days that packages are to be older than: a month's end after the commit, later where that is too early."""
    day = datetime.date.fromisoformat(committed)
    soon, year = datetime.date(day.year + day.month // 12, day.month % 12 + 1, 1), datetime.date(day.year + 1, 1, 1)
    later = max(_WHEELS, year)
    today = datetime.date.today()
    return tuple(each.isoformat() for each in dict.fromkeys((soon, later)) if _EARLIEST <= each <= today)


def _draft(row: BenchRow, built: Built, bug: Bug, tests: dict[str, str | bytes], base: Mapping[str, bytes]) -> Draft:
    official = {_bare(test) for test in row.fail_to_pass}
    agreed = official & {_bare(test) for test in bug.fail_to_pass}
    return Draft(
        name=f"swe-bench/{row.key}",
        domain="swe",
        instruction=row.issue,
        files=dict(base),
        git=True,
        dockerfile=f"FROM scratch\nWORKDIR {WORKDIR}\nCOPY files/ {WORKDIR}/\n",
        workdir=WORKDIR,
        test_files=tests,
        kept={"environment/python.json": built.lock.text()},
        steps=(),
        solution=applying(row.gold, WORKDIR),
        tier=6,
        split="train",
        skills=("issue",),
        intent="request",
        source=row.repo,
        agent_timeout_s=1800.0,
        verifier_timeout_s=600.0,
        storage_mb=STORAGE_MB,
        memory_mb=MEMORY_MB,
        pids=PIDS,
        metadata={
            "fail_to_pass": str(len(bug.fail_to_pass)),
            "pass_to_pass": str(len(bug.seen) - len(bug.fail_to_pass)),
            "official_fail_to_pass": str(len(official)),
            "official_agreed": str(len(agreed)),
            "official_unstable": str(len(official - {_bare(test) for test in built.baseline})),
            "hidden_values": str(bug.hidden_values),
        },
    )


def _bare(test: str) -> str:
    """Return a test's name alone: some rows say no more of a test."""
    return test.rpartition("::")[2] if "::" in test else test.partition(" ")[0]


def _patched(tree: Path, row: BenchRow) -> dict[str, bytes]:
    """Apply both patches of a row and return the files."""
    for name, patch in (("patch", row.gold), ("test_patch", row.tests)):
        given = patch if patch.endswith("\n") else f"{patch}\n"
        done = subprocess.run(["git", "apply", "-"], cwd=tree, input=given.encode(), capture_output=True, check=False)
        if done.returncode:
            raise UserError(f"{row.key}: its {name} does not apply: {done.stderr.decode().strip()[:120]}")
    return read_tree(tree)


def _touched(patch: str) -> Collection[str]:
    return set(re.findall(r"^\+\+\+ b/(\S+)", patch, re.M))


def _has_tests(data: bytes) -> bool:
    return re.search(rb"^\s*(?:async )?def test", data, re.M) is not None
