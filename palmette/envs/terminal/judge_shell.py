"""Decides about a SWE task that is told as shell work: ``python3 -I -S /tests/judge_shell.py``.

It stands beside `judge.py` (and the judge of the task's own kind, where it has one) in a task and brings two more kinds
of check: that nothing but what had to be was changed, as a report of the agent's says, and that a script of the agent's
tells broken code from corrected code.
"""

from __future__ import annotations

import hashlib
import os
import runpy
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
if __name__ == "__main__":
    sys.path.insert(0, HERE)
    import judge  # what stands beside it in /tests
else:
    from palmette.envs import judge

_LOOKED_PAST = {".git", "__pycache__", ".pytest_cache"}


def main() -> None:
    """Judge as the task's own judge does, with two more kinds of check."""
    judge.KINDS["changes"], judge.KINDS["detects"] = _changes, _detects
    own = os.path.join(HERE, "judge_suite.py")
    if os.path.exists(own):
        sys.modules["judge"] = judge
        runpy.run_path(own, run_name="__main__")
    else:
        judge.main()


def _changes(check: dict) -> None:
    """Only files that may be were changed, and the report names them: {before: {path: sha256}, fixed, made, report}."""
    now = {}
    for folder, inner, names in os.walk(judge._root):
        inner[:] = [name for name in inner if name not in _LOOKED_PAST]
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), judge._root)
            now[path] = hashlib.sha256(judge._content(path)).hexdigest() if path not in check["made"] else ""
    before = check["before"]
    lost = sorted(set(before) - set(now))
    added = sorted(set(now) - set(before) - set(check["made"]))
    changed = sorted(path for path in before if path in now and now[path] != before[path])
    wrong = lost + added + [path for path in changed if path in check["fixed"]]
    if wrong:
        raise judge.Missed(f"{wrong[0]} should be as it was")
    if not changed:
        raise judge.Missed("no file of the project was changed")
    lines = judge._content(check["report"]).decode("utf-8", "replace").splitlines()
    said = sorted({os.path.normpath(line.strip()) for line in lines if line.strip()})
    if said != changed:
        raise judge.Missed(f"{check['report']} names {said[:4]}, but changed are {changed[:4]}")


def _detects(check: dict) -> None:
    """A script exits with 0 on what the agent left and with 1 over the broken files: {argv, broken: {path: text}}."""
    argv = ["env", "PYTHONPATH=" + os.environ.get("PYTHONPATH", ""), *check["argv"]]
    kept = {path: judge._content(path) for path in check["broken"]}
    code, _ = judge._child(argv, "", check["timeout_s"])
    if code != 0:
        raise judge.Missed(f"{' '.join(check['argv'])} exits {code} on the corrected code")
    try:
        _put({path: text.encode() for path, text in check["broken"].items()})
        code, _ = judge._child(argv, "", check["timeout_s"])
    finally:
        _put(kept)
    if code != 1:
        raise judge.Missed(f"{' '.join(check['argv'])} exits {code} on the broken code")


def _put(files: dict) -> None:
    for path, data in files.items():
        with open(judge._place(path), "wb") as file:
            file.write(data)


if __name__ == "__main__":
    main()
