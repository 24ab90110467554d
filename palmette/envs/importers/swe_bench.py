"""Rows of SWE-bench and of what shares its fields: repository and commit, issue, gold patch, test patch, test lists.

The environment is the image that SWE-bench publishes for the row, by its name; without Docker, and without an image of
that name made here, such a task cannot be built. A row whose repository is given as a directory of git clones
(``OWNER__NAME``) gets its files from the clone instead and runs on this machine's Python. The verdict reads pytest's
structured report, test by test; it runs what the agent wrote in the same process as the tests, so check before you use.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from palmette.envs.api import Draft
from palmette.envs.importers.apart import apart
from palmette.envs.importers.rows import Row
from palmette.envs.patch import applying
from palmette.envs.swe.real.rows import BenchRow, task_of_row
from palmette.sandbox.hosts import open_host

_TEST_SCRIPT = """\
#!/bin/sh
cd {workdir} || exit 1
mkdir -p /logs/verifier
git apply /tests/test.patch || {{ echo 0 > /logs/verifier/reward.txt; exit 0; }}
python3 -m pytest -q -p no:cacheprovider --junitxml=/logs/verifier/report.xml {files} > /logs/verifier/pytest.txt 2>&1
python3 -I -S /tests/grade.py > /logs/verifier/reward.txt
"""
_GRADE = '''\
"""Print 1 when every expected test has passed, by pytest's structured report, else 0."""
import json
import sys
import xml.etree.ElementTree as ElementTree

expected = json.load(open("/tests/expected.json"))
try:
    cases = list(ElementTree.parse("/logs/verifier/report.xml").iter("testcase"))
except (OSError, ElementTree.ParseError):
    cases = []
passed = {
    case.get("classname", "") + "." + case.get("name", "")
    for case in cases
    if not any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
}


def key(test):
    path, *rest = test.split("::")
    return ".".join([path.removesuffix(".py").replace("/", "."), *rest])


missing = [test for test in expected["fail_to_pass"] + expected["pass_to_pass"] if key(test) not in passed]
print("missed: " + " ".join(missing[:5]) if missing else "all expected tests passed", file=sys.stderr)
print(0 if missing else 1)
'''


def swe_bench(clones: Path | None) -> Callable[[Row], Draft]:
    """Return the importer; `clones` is a directory of git clones, or None for the published images."""
    return partial(_from_row, clones=clones)


def _from_row(row: Row, *, clones: Path | None) -> Draft:
    repo, key, commit = row.text("repo"), row.text("instance_id"), row.text("base_commit")
    issue, gold, tests = row.text("problem_statement"), row.text("patch"), row.text("test_patch")
    for name, patch in (("patch", gold), ("test_patch", tests)):
        if "\n+++ " not in f"\n{patch}":
            raise row.refuse(f"{name} is no unified diff")
    flip, keep = row.texts("FAIL_TO_PASS"), row.texts("PASS_TO_PASS")
    if not flip:
        raise row.refuse("FAIL_TO_PASS is empty: nothing would show that the issue is solved")
    if clones:
        clone = clones / repo.replace("/", "__")
        if not clone.is_dir():
            raise row.refuse(f"{clone} is missing: a git clone of the repository is needed there")
        mine = BenchRow(
            key=key,
            repo=repo,
            commit=commit,
            issue=issue,
            gold=gold,
            tests=tests,
            fail_to_pass=tuple(flip),
            pass_to_pass=tuple(keep),
        )
        draft = _built_here(mine, clone)
        license = row.text("license", "")
        return replace(draft, provenance=_provenance(row), license=license, metadata=draft.metadata | _told(row))
    if odd := [test for test in flip + keep if "::" not in test]:
        raise row.refuse(f"{odd[0]!r} is no test id of pytest (FILE.py::TEST); other runners need a clone")
    where = {test.split("::")[0] for test in flip + keep}
    workdir, image = "/testbed", f"swebench/sweb.eval.x86_64.{key.lower().replace('__', '_1776_')}:latest"
    dockerfile = f"FROM {image}\nWORKDIR /testbed\n"
    return Draft(
        name=f"swe-bench/{key}",
        domain="swe",
        instruction=issue,
        files={},
        dockerfile=dockerfile,
        workdir=workdir,
        test_files={
            "test.sh": _TEST_SCRIPT.format(workdir=workdir, files=shlex.join(sorted(where))),
            "grade.py": _GRADE,
            "test.patch": tests if tests.endswith("\n") else tests + "\n",
            "expected.json": json.dumps({"fail_to_pass": flip, "pass_to_pass": keep}, indent=1),
        },
        steps=(),
        solution=applying(gold, workdir),
        tier=1,
        split="train",
        skills=("issue",),
        intent="request",
        template="",
        source=repo,
        agent_timeout_s=1800.0,
        verifier_timeout_s=600.0,
        metadata=_told(row),
        provenance=_provenance(row),
        license=row.text("license", ""),
    )


def _provenance(row: Row) -> str:
    return f"SWE-bench, imported from {row.path.name}:{row.number}"


def _told(row: Row) -> dict[str, str]:
    return {name: str(row.data.get(name) or "") for name in ("instance_id", "base_commit", "difficulty")}


def _built_here(row: BenchRow, clone: Path) -> Draft:
    """Build a row's environment in sandboxes here."""

    async def build() -> Draft:
        host = open_host("namespace")
        try:
            return await task_of_row(row, clone, host)
        finally:
            await host.close()

    return apart(build)
