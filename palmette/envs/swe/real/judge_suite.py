"""Decides about a task of a real project: runs sealed tests over what the agent left, and compares what they saw.

    python3 -I -S /tests/judge_suite.py

It stands beside `judge.py` in a task and brings it one more kind of check. The tests run in a child together with the
agent's code, which may do there what it likes; it cannot know what the tests expect to see, because that is in this
process only, as digests. Tests, settings and all that a test runner loads by itself come from the hidden copies.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
if __name__ == "__main__":
    sys.path.insert(0, HERE)
    import judge  # what stands beside it in /tests
else:
    from palmette.envs import judge

_LOADED = ("conftest.py", "sitecustomize.py", "usercustomize.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg")
_LOADED += ("__pycache__", "node_modules", "package.json")
_LOADED_ENDS = (".pth", ".egg-info", ".dist-info", ".so", ".pyc", ".node")
_hidden: dict = {}


def main() -> None:
    """Take everything of /tests into memory, then judge as always."""
    top = os.path.join(HERE, "hidden")
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                _hidden[os.path.relpath(path, top)] = file.read()
    with open(os.path.join(HERE, "runner.txt"), encoding="utf-8") as file:
        _hidden[""] = file.read()
    judge.KINDS["suite"] = _suite
    judge._CHILD_MEMORY, judge._CHILD_CPU_S = 2 << 30, 600
    judge.main()


def _suite(check: dict) -> None:
    """Tests see what they saw with the reference: {argv, variables, given, tests: {id: digest}, gone, known, roots}."""
    _restore(check)
    site = os.environ.get("NODE_PATH") or os.environ.get("PYTHONPATH", "").rpartition(":")[2]
    given = dict(check["given"], path=[site if entry == "@site" else entry for entry in check["given"]["path"]])
    variables = ["PATH=" + os.environ.get("PATH", os.defpath), *check["variables"]]
    argv = ["env", "-i", *variables, *(_hidden[""] if word == "@runner" else word for word in check["argv"])]
    _, output = judge._child(argv, json.dumps(given), check["timeout_s"])
    told: dict = {}
    for line in output.decode("utf-8", "replace").splitlines():
        try:
            said = json.loads(line)
            if "t" in said:
                told.setdefault(said["t"], []).append((said["o"], said["d"]))
        except (ValueError, TypeError, KeyError):
            continue
    for test, digest in check["tests"].items():
        if told.get(test) != [("passed", digest)]:
            outcomes = [outcome for outcome, _ in told.get(test, [])]
            raise judge.Missed(f"{test} sees something else (it says {outcomes or 'nothing'})")


def _restore(check: dict) -> None:
    """Remove what could talk to the test runner, and what was not there and could be taken for another module."""
    root = judge._root
    for folder, inner, names in os.walk(root, topdown=True):
        below = os.path.relpath(folder, root)
        for name in list(inner) + names:
            path = os.path.join(folder, name)
            place = os.path.normpath(os.path.join(below, name))
            if _unwanted(path, place, name, below, check):
                if name in inner:
                    inner.remove(name)
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
    for name, data in _hidden.items():
        if name:
            path = os.path.join(root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)


def _unwanted(path: str, place: str, name: str, below: str, check: dict) -> bool:
    kind = os.lstat(path).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        return True
    if place in check["gone"] or name in _LOADED or name.endswith(_LOADED_ENDS):
        return True
    return below in check["roots"] and place not in check["known"]


if __name__ == "__main__":
    main()
