"""Tells a SWE task as shell work: the same bug, with a script that finds it and a report besides.

The task's own hidden tests still decide whether the bug is gone; the judge looks at the rest (`judge_shell`).
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from palmette.envs.api import Step, Task
from palmette.envs.task import load_steps, load_task, set_metadata
from palmette.envs.terminal.job import heredoc
from palmette.errors import UserError
from palmette.run import write_atomic

CHECK, REPORT = "check.sh", "changed.txt"
_TEST_SCRIPT = "#!/bin/sh\nexec python3 -I -S /tests/judge_shell.py\n"
_CHECK_S = 30.0
_TESTS = re.compile(r"(^|/)(tests?|testing|__tests__)/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$|\.test\.m?js$")


def as_shell_work(task: Task, out_dir: Path) -> Task:
    """Write a SWE task as a terminal task in the directory `out_dir`, whole or not at all.

    Raises `UserError` for a task that is no generated or real-project SWE task of ours, or whose bug has no
    reproduction of its own, and for a directory in the way.
    """
    plan, broken = _plan(task), _broken(task)
    if out_dir.exists():
        raise UserError(f"{out_dir} exists already; remove it or choose another place")
    command, want = _reproduction(task, plan)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent)) / "task"
    try:
        shutil.copytree(task.path, scratch, symlinks=True)
        _write(scratch, task, plan, broken, command, want)
        scratch.rename(out_dir)
    finally:
        shutil.rmtree(scratch.parent, ignore_errors=True)
    return load_task(out_dir)


def _write(root: Path, task: Task, plan: dict[str, Any], broken: dict[str, str], command: str, want: str) -> None:
    shutil.rmtree(root / "phrasings", ignore_errors=True)
    write_atomic(root / "instruction.md", _instruction(task, command, want) + "\n")
    goals = [
        {"name": "nothing else changed, and the report says what was", "checks": [_changes(root)]},
        {
            "name": "the script finds the bug",
            "checks": [{"kind": "detects", "argv": ["sh", CHECK], "broken": broken, "timeout_s": _CHECK_S}],
        },
        *plan["goals"],
    ]
    limit_s = plan.get("limit_s", 45.0) + 2 * _CHECK_S
    write_atomic(
        root / "tests" / "checks.json", json.dumps(plan | {"goals": goals, "limit_s": limit_s}, indent=1) + "\n"
    )
    write_atomic(root / "tests" / "test.sh", _TEST_SCRIPT)
    shutil.copyfile(Path(__file__).with_name("judge_shell.py"), root / "tests" / "judge_shell.py")
    extra = (
        heredoc(CHECK, f'cd {task.workdir}\n[ "$({command})" = {shlex.quote(want)} ] || exit 1'),
        heredoc(REPORT, "\n".join(sorted(broken))),
    )
    script = (root / "solution" / "solve.sh").read_text(encoding="utf-8").rstrip("\n")
    write_atomic(root / "solution" / "solve.sh", "\n".join([script, f"cd {task.workdir}", *extra]) + "\n")
    if (root / "solution" / "steps.json").is_file():
        steps = list(load_steps(task))
        steps[-1:-1] = [Step(tool="bash", arguments={"command": one}, observation="(no output)") for one in extra]
        plain = [{"tool": s.tool, "arguments": s.arguments, "observation": s.observation} for s in steps]
        write_atomic(root / "solution" / "steps.json", json.dumps(plain, indent=1) + "\n")
    toml = root / "task.toml"
    text = toml.read_text(encoding="utf-8").replace(
        f"name = {json.dumps(task.name)}", f"name = {json.dumps(f'{task.name}-shell')}", 1
    )
    timeout = re.sub(
        r"(\[verifier\]\s*timeout_sec = )[\d.]+", rf"\g<1>{task.verifier_timeout_s + 2 * _CHECK_S!r}", text
    )
    write_atomic(toml, timeout)
    set_metadata(
        toml, {"domain": "terminal", "template": f"terminal/from-{task.template or 'swe'}", "intent": "request"}
    )


def _instruction(task: Task, command: str, want: str) -> str:
    return (
        f"The project in {task.workdir} has a bug. This should print {want}, and does not:\n\n{command}\n\n"
        "1. Correct the code, for all inputs and not only for this one: hidden tests decide, and what works now must "
        "still work.\n"
        f"2. Write {CHECK} in {task.workdir}. 'sh {CHECK}' exits with 0 when the bug is gone and with 1 when it is "
        "there.\n"
        f"3. Write to {REPORT} in {task.workdir} the path of every file of the project that you changed, one a line, "
        f"relative to {task.workdir}.\n"
        "4. Leave everything else as it is: no test is changed, and there are no new files but these two."
    )


def _plan(task: Task) -> dict[str, Any]:
    """Return what the judge of a task of ours is to find."""
    path = task.path / "tests" / "checks.json"
    if task.domain != "swe" or not path.is_file():
        raise UserError(f"{task.path}: only SWE tasks of ours can be told as shell work (it has no tests/checks.json)")
    return json.loads(path.read_text(encoding="utf-8"))


def _broken(task: Task) -> dict[str, str]:
    """Return the files that the reference corrects, as they are with the bug."""
    solution = task.path / "solution"
    if (solution / "steps.json").is_file():
        paths = {step.arguments["path"] for step in load_steps(task) if step.tool == "edit"}
    else:
        paths = set(re.findall(r"^\+\+\+ b/(.+)$", (solution / "solve.sh").read_text(encoding="utf-8"), re.MULTILINE))
    files = task.path / "environment" / "files"
    for taken in (CHECK, REPORT):
        if (files / taken).exists():
            raise UserError(f"{files / taken}: the project has a file of that name already")
    if not paths or not all((files / path).is_file() for path in paths):
        raise UserError(f"{solution}: it does not say which files it changes")
    return {path: (files / path).read_text(encoding="utf-8") for path in sorted(paths)}


def _reproduction(task: Task, plan: dict[str, Any]) -> tuple[str, str]:
    """Return a command that shows the bug, and what it should print."""
    checks = [check for goal in plan["goals"] for check in goal["checks"] if goal["name"].startswith("fail_to_pass")]
    for check in checks:
        for arguments, want in check.get("cases", ()):
            call = f"{check['function']}{re.sub(r',[)]$', ')', arguments)}"
            if call in task.instruction:
                name = check["function"]
                return _python(f"from {check['module']} import {name}; print(repr({call}))"), want
    path = task.path / "phrasings" / "specification.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    code = re.search(r"^To reproduce:\n\n```\n(.+?)\n```$", text, re.MULTILINE | re.DOTALL)
    want = re.search(r"^Expected: `(.+?)`\.", text, re.MULTILINE)
    if task.path.joinpath("environment", "python.json").is_file() and code and want:
        *before, last = code[1].split("\n")
        program = "\n".join([*before, f"print(repr({last}))"])
        if _compiles(program) and program.count("print(") == 1 and _compiles(want[1]):
            return _python(program), want[1]
    raise UserError(f"{task.path}: there is no reproduction of its bug as a command")


def _compiles(program: str) -> bool:
    """Say whether a text is Python: reproductions and values in issues may have been cut."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a stranger's code may be warned of
        try:
            compile(program, "reproduction", "exec")
        except (SyntaxError, ValueError):
            return False
    return True


def _python(program: str) -> str:
    return f"python3 -c {shlex.quote(program)}"


def _changes(root: Path) -> dict[str, Any]:
    """Return the check that nothing but what had to be was changed."""
    files = root / "environment" / "files"
    before: dict[str, str] = {}
    for path in sorted(files.rglob("*")):
        name = str(path.relative_to(files))
        if path.is_file() and not path.is_symlink() and ".git" not in Path(name).parts:
            before[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    fixed = [name for name in before if _TESTS.search(name)]
    return {"kind": "changes", "before": before, "fixed": fixed, "made": [CHECK, REPORT], "report": REPORT}
