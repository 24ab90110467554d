"""Rows of SWE-bench and of what shares its fields: repository and commit, issue, gold patch, test patch, test lists.

The environment is the image that SWE-bench publishes for the row, by its name; without Docker, and without an image of
that name made here, such a task cannot be built. A row whose repository is given as a directory of git clones
(``OWNER__NAME``) gets its files from the clone instead and runs on this machine's Python. The verdict reads pytest's
structured report, test by test; it runs what the agent wrote in the same process as the tests, so check before you use.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from palmette.envs.api import Draft
from palmette.envs.importers.rows import Row
from palmette.errors import UserError

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
    if odd := [test for test in flip + keep if "::" not in test]:
        raise row.refuse(f"{odd[0]!r} is no test id of pytest (FILE.py::TEST); other runners are not supported")
    where = {test.split("::")[0] for test in flip + keep}
    files = _clone(row, clones / repo.replace("/", "__"), commit) if clones else {}
    workdir = "/app" if clones else "/testbed"
    image = f"swebench/sweb.eval.x86_64.{key.lower().replace('__', '_1776_')}:latest"
    dockerfile = "FROM scratch\nWORKDIR /app\nCOPY files/ /app/\n" if clones else f"FROM {image}\nWORKDIR /testbed\n"
    return Draft(
        name=f"swe-bench/{key}",
        domain="swe",
        instruction=issue,
        files=files,
        git=bool(clones),
        dockerfile=dockerfile,
        workdir=workdir,
        test_files={
            "test.sh": _TEST_SCRIPT.format(workdir=workdir, files=shlex.join(sorted(where))),
            "grade.py": _GRADE,
            "test.patch": tests if tests.endswith("\n") else tests + "\n",
            "expected.json": json.dumps({"fail_to_pass": flip, "pass_to_pass": keep}, indent=1),
        },
        steps=(),
        solution=f"#!/bin/sh\nset -e\ncd {workdir}\ngit apply <<'END_OF_PATCH'\n{gold.rstrip()}\nEND_OF_PATCH\n",
        tier=1,
        split="train",
        skills=("issue",),
        provenance=f"SWE-bench, imported from {row.path.name}:{row.number}",
        intent="request",
        template="",
        source=repo,
        license=row.text("license", ""),
        agent_timeout_s=1800.0,
        verifier_timeout_s=600.0,
        metadata={"instance_id": key, "base_commit": commit, "difficulty": str(row.data.get("difficulty") or "")},
    )


def _clone(row: Row, clone: Path, commit: str) -> dict[str, str | bytes]:
    """Return the files of a commit of a clone."""
    if not clone.is_dir():
        raise row.refuse(f"{clone} is missing: a git clone of the repository is needed there")
    listed = _git(clone, "ls-tree", "-r", "--name-only", "-z", commit)
    if listed is None:
        raise row.refuse(f"{clone} has no commit {commit}")
    names = [name for name in listed.decode().split("\0") if name]
    found = {name: _git(clone, "cat-file", "blob", f"{commit}:{name}") for name in names}
    return {name: content for name, content in found.items() if content is not None}


def _git(clone: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise UserError("git is not installed; importing from clones needs it") from None
    return done.stdout if done.returncode == 0 else None
