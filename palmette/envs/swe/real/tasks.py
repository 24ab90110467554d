"""Makes a task of a bug: the broken project as one commit, the issue, the sealed tests, the reference."""

from __future__ import annotations

import difflib
import json
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath

from palmette.envs.api import Draft, Split, Step
from palmette.envs.patch import applying, patch_between
from palmette.envs.split import split_of
from palmette.envs.swe.real.bench import WORKDIR
from palmette.envs.swe.real.bugs import Bug
from palmette.envs.swe.real.built import Built, Sealed
from palmette.envs.swe.real.issue import choose, leaks, phrasings
from palmette.envs.swe.real.languages import LANGUAGES
from palmette.envs.swe.real.project import VARIABLES, wanted

_HERE = Path(__file__).parent
_TEST_SCRIPT = "#!/bin/sh\nexec python3 -I -S /tests/judge_suite.py\n"
_SETTINGS = {"conftest.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml", "package.json"}
_TEST_FOLDERS = {"test", "tests", "testing", "__tests__"}
STORAGE_MB, MEMORY_MB, PIDS = 256, 1024, 128  # of the sandboxes of real projects
_SLOW = 20  # times as long as the tests took here may they take when they are graded
_LIMIT_S = (30.0, 240.0)


class Unfit(Exception):
    """A bug makes no task; the text says why."""


def draft_of(
    built: Built, sealed: Sealed, bug: Bug, *, tier: int, name: str, rng: random.Random, split: Split | None
) -> Draft:
    """Return the task of a bug. Raises `Unfit` when nothing can be said about it without giving it away."""
    project, changed = built.project, bug.candidate.files
    evidence = choose(bug)
    if evidence is None:
        raise Unfit("what goes wrong takes too many words")
    path = next(iter(changed)) if tier == 4 else ""
    texts = phrasings(evidence, project=project.name, version=project.version, path=path, rng=rng)
    if said := leaks(
        texts.values(), [line for path, text in changed.items() for line in right_lines(built, path, text)]
    ):
        raise Unfit(f"the issue would give the answer away: {said[:60]}")
    visible = _without(built, dict(built.files) | {path: text.encode() for path, text in changed.items()}, bug)
    patch = patch_between(
        {path: (visible[path], False) for path in changed},
        {path: (built.files[path], False) for path in changed if path in built.files},
    )
    steps = _steps(bug, built)
    return Draft(
        name=name,
        domain="swe",
        instruction=texts["request"],
        phrasings=texts,
        files=dict(visible),
        git=True,
        test_files=tests_of(built, bug, sealed),
        steps=steps,
        solution="" if steps else applying(patch, WORKDIR),
        kept={f"environment/{built.lock.file}": built.lock.text()},
        dockerfile=f"FROM scratch\nWORKDIR {WORKDIR}\nCOPY files/ {WORKDIR}/\n",
        tier=tier,
        split=split or split_of(project.name),
        skills=(bug.candidate.kind,),
        provenance=f"{built.report.provenance}, with a bug of the kind {bug.candidate.kind}",
        template=f"swe/real/{bug.candidate.kind}",
        source=project.name,
        license=project.license,
        agent_timeout_s=900.0,
        verifier_timeout_s=_limit_s(built) + 30.0,
        storage_mb=STORAGE_MB,
        memory_mb=MEMORY_MB,
        pids=PIDS,
        metadata={
            "project": built.label,
            "language": project.language,
            "fail_to_pass": str(len(bug.fail_to_pass)),
            "pass_to_pass": str(len(bug.seen) - len(bug.fail_to_pass)),
            "hidden_values": str(bug.hidden_values),
        },
    )


def tests_of(built: Built, bug: Bug, sealed: Sealed) -> dict[str, str | bytes]:
    """Return the `tests/` of a task: the judge, what it compares with, and the hidden copies."""
    project, language = built.project, LANGUAGES[built.project.language]
    hidden = hidden_files(built.files, project.tests)
    argv, runner = language.command()
    files = sorted({test.partition("::")[0] for test in bug.seen})
    check = {
        "kind": "suite",
        "argv": list(argv),
        "variables": list(VARIABLES),
        "given": wanted(project, built.lock, ["@site"], files=files, only=list(bug.seen)),
        "tests": dict(bug.seen),
        "gone": sorted({*hidden, *_folders(hidden)}),
        "roots": list(dict.fromkeys([".", *built.lock.roots])),
        "known": sorted(_known(built)),
        "timeout_s": _limit_s(built),
    }
    plan = {"workdir": WORKDIR, "limit_s": _limit_s(built) + 10.0, "goals": [{"name": "tests", "checks": [check]}]}
    copies = {f"hidden/{path}": sealed.files.get(path, built.files[path]) for path in hidden}
    return {
        "test.sh": _TEST_SCRIPT,
        "judge.py": _own("judge.py", _HERE.parent.parent),
        "judge_suite.py": _own("judge_suite.py", _HERE),
        "runner.txt": runner,
        "checks.json": json.dumps(plan, indent=1) + "\n",
        **copies,
    }


def hidden_files(files: Mapping[str, bytes], tests: tuple[str, ...]) -> list[str]:
    """Return the paths that are tests, what lies beside them, and what a test runner reads by itself."""
    folders = {folder for path in tests if (folder := _test_folder(path))}
    return sorted(
        path
        for path in files
        if path in tests
        or PurePosixPath(path).name in _SETTINGS
        or any(path.startswith(f"{folder}/") for folder in folders)
        or any(part.endswith((".egg-info", ".dist-info")) for part in path.split("/")[:-1])
    )


def right_lines(built: Built, path: str, broken: str) -> list[str]:
    """Return the lines that the reference puts in."""
    right = built.files.get(path, b"").decode(errors="replace").splitlines()
    return [line[2:] for line in difflib.ndiff(broken.splitlines(), right) if line.startswith("+ ")]


def _test_folder(path: str) -> str:
    """Return the topmost directory of tests that a path is in, "" if it is in none."""
    parts = path.split("/")[:-1]
    number = next((n for n, part in enumerate(parts) if part in _TEST_FOLDERS), None)
    return "" if number is None else "/".join(parts[: number + 1])


def _folders(hidden: list[str]) -> set[str]:
    return {folder for path in hidden if (folder := _test_folder(path))}


def _known(built: Built) -> set[str]:
    """Return what stands directly in a directory that modules are imported from."""
    known: set[str] = set()
    for root in {".", *built.lock.roots}:
        start = "" if root == "." else f"{root}/"
        known |= {start + path[len(start) :].partition("/")[0] for path in built.files if path.startswith(start)}
    return known


def _without(built: Built, files: dict[str, bytes], bug: Bug) -> dict[str, bytes]:
    """Return the files with the tests taken out that fail with the bug."""
    language = LANGUAGES[built.project.language]
    gone: dict[str, set[str]] = {}
    for test in bug.fail_to_pass:
        path, _, name = test.partition("::")
        gone.setdefault(path, set()).add(name)
    shown = dict(files)
    for path, names in gone.items():
        shown[path] = language.without(files[path].decode(), names).encode()
    return shown


def _steps(bug: Bug, built: Built) -> tuple[Step, ...]:
    """Return the reference as calls of tools, () where an edit of one file would not do."""
    if len(bug.candidate.files) != 1:
        return ()
    ((path, broken),) = bug.candidate.files.items()
    old, new = _edit(broken, built.files[path].decode())
    if broken.count(old) != 1 or not old or len(old) > 4000:
        return ()
    edit = Step(tool="edit", arguments={"path": path, "old": old, "new": new}, observation="ok")
    submit = Step(tool="submit", arguments={}, observation="submitted")
    if not bug.candidate.where:
        return edit, submit
    function = bug.candidate.where.rpartition(".")[2]
    command = f"grep -n 'def {function}(' {path}"
    found = [f"{n}:{line}" for n, line in enumerate(broken.split("\n"), 1) if f"def {function}(" in line]
    look = Step(tool="bash", arguments={"command": command}, observation="\n".join(found))
    return (look, edit, submit) if found else (edit, submit)


def _edit(broken: str, right: str) -> tuple[str, str]:
    """Return the smallest block of whole lines, unique in the broken text, that has to be replaced, and by what."""
    old, new = broken.split("\n"), right.split("\n")
    first = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    last = 0
    while last < min(len(old), len(new)) - first and old[-1 - last] == new[-1 - last]:
        last += 1
    while True:
        before = "\n".join(old[first : len(old) - last])
        if (before and broken.count(before) == 1) or (first == 0 and last == 0):
            return before, "\n".join(new[first : len(new) - last])
        first, last = max(0, first - 1), max(0, last - 1)


def _limit_s(built: Built) -> float:
    least, most = _LIMIT_S
    return min(most, max(least, _SLOW * built.report.run_s))


@cache
def _own(name: str, folder: Path) -> str:
    return (folder / name).read_text(encoding="utf-8")
