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
from palmette.envs.swe.real.languages import LANGUAGES
from palmette.envs.swe.real.tasks import MEMORY_MB, PIDS, STORAGE_MB, tests_of
from palmette.errors import UserError
from palmette.sandbox.api import Host

_PYTHON = "3.9"  # what SWE-bench's own recipes use for nearly all
_EARLIEST = datetime.date(2021, 12, 1)  # before, packages have no wheels for that Python
_TERMS = Terms(most_failing=10_000, least_hidden=0, told=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """What a row says that matters here; the two lists are only compared with what comes of it."""

    key: str
    repo: str
    commit: str
    issue: str
    gold: str
    tests: str
    created: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]


async def task_of_row(row: BenchRow, clone: Path, host: Host) -> Draft:
    """Return the task of a row. Raises `UserError` with the reason when it cannot be built."""
    scratch = Path(tempfile.mkdtemp(prefix="palmette-row-"))
    try:
        base = _checked_out(clone, row.commit, scratch / "tree")
        right = _patched(scratch / "tree", row)
        built = await _built(row, right, scratch / "tree", host)
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


async def _built(row: BenchRow, right: Mapping[str, bytes], tree: Path, host: Host) -> Built:
    """Measure the tests that the row's test patch touches, in an environment of the row's time."""
    language = LANGUAGES["python"]
    project = language.discover(tree)
    tests = tuple(sorted(p for p in _touched(row.tests) if p in right and p.endswith(".py") and _has_tests(right[p])))
    if project is None or not tests:
        raise UserError(f"{row.key}: its test patch touches no test file of Python")
    made = row.created[:10]
    day = datetime.date.fromisoformat(made) if re.fullmatch(r"\d{4}-\d\d-\d\d", made) else None
    project = replace(
        project,
        name=row.repo.rpartition("/")[2],
        tests=tests,
        wished=(),  # what its tests need besides, their failures tell; old lists of wishes take pip minutes
        pythons=f"=={_PYTHON}.*" if day and _PYTHON in versions() else project.pythons,
        before=max(datetime.date(day.year + 1, 1, 1), _EARLIEST).isoformat() if day else "",
        version=project.version if project.version[:1].isdigit() and project.version != "0" else "9999",
    )
    return await measure(host, language, project, right, fewest=1)


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
            "hidden_values": str(bug.hidden_values),
        },
    )


def _bare(test: str) -> str:
    """Return a test's name alone: some rows say no more of a test."""
    return test.rpartition("::")[2] if "::" in test else test.partition(" ")[0]


def _checked_out(clone: Path, commit: str, tree: Path) -> dict[str, bytes]:
    """Put the files of a commit into a directory and return them."""
    tree.mkdir(parents=True)
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        made = subprocess.run(["git", "-C", str(clone), "archive", "-o", archive.name, commit], capture_output=True)
        if made.returncode:
            raise UserError(f"{clone} has no commit {commit}")
        subprocess.run(["tar", "-xf", archive.name, "-C", str(tree)], check=True, capture_output=True)
    return read_tree(tree)


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
