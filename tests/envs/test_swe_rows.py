"""Proves what rows of old commits need: files and version of a commit, packages of its time, tests of a test runner."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import iniconfig
import pytest

from palmette.envs.locked import Lock, Wanted, resolve
from palmette.envs.swe.real import repair, run_pytest
from palmette.envs.swe.real.checkout import check_out
from palmette.envs.swe.real.project import Project, Result, Run
from palmette.envs.swe.real.setup_py import asked_for
from palmette.errors import UserError


def git(where: Path, *words: str) -> str:
    who = {"GIT_AUTHOR_DATE": "2020-02-28T12:00:00Z", "GIT_COMMITTER_DATE": "2020-02-28T12:00:00Z"}
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.invalid", *words]
    return subprocess.run(
        command, cwd=where, env=os.environ | who, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_checkout_has_the_day_the_version_of_the_tag_before_and_the_file_a_build_would_write(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    (clone / "src/own").mkdir(parents=True)
    (clone / "setup.py").write_text("setup(use_scm_version={'write_to': 'src/own/_version.py'})\n")
    git(clone, "init", "-q")
    for number, tag in enumerate(("v1.2.0rc1", "later")):
        (clone / "src/own/__init__.py").write_text(f"N = {number}\n")
        git(clone, "add", "-A")
        git(clone, "commit", "-qm", tag)
        if number == 0:
            git(clone, "tag", tag)
    taken = check_out(clone, "HEAD", tmp_path / "tree")
    assert (taken.day, taken.version) == ("2020-02-28", "1.2.0rc1")
    found: dict[str, Any] = {}
    exec((tmp_path / "tree/src/own/_version.py").read_text(), found)
    assert (found["version"], found["version_tuple"]) == ("1.2.0rc1", (1, 2, 0))
    assert (tmp_path / "tree/src/own/__init__.py").read_text() == "N = 1\n"
    with pytest.raises(UserError, match="has no commit"):
        check_out(clone, "f" * 40, tmp_path / "other")


def test_where_days_count_wheels_in_a_directory_are_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "ownthing-3.0-py3-none-any.whl", "w") as wheel:
        about = "ownthing-3.0.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: ownthing\nVersion: 3.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert resolve(own, Wanted(needed=("ownthing",)), without="x") == (("ownthing==3.0",), ())
    with pytest.raises(UserError, match="ownthing"):
        resolve(own, Wanted(needed=("ownthing",), before="2020-01-01"), without="x")


def test_days_are_tried_in_turn_and_no_environment_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolved(_python: str, wanted: Wanted, *, without: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        asked.append(wanted.before)
        if wanted.before == "2019-01-01":
            raise UserError("no wheels then")
        return (f"thing=={wanted.before}",), ()

    monkeypatch.setattr(repair, "resolve", resolved)
    project = Project(
        name="p", version="1", language="python", before=("2019-01-01", "2020-01-01"), options=("-m", "x")
    )
    locks: list[Lock] = []
    bad = Run(results={"t": Result(outcome="failed", digest="", message="no")})
    trying = repair.attempts(project)
    lock: Lock | None = next(trying)
    while lock:
        locks.append(lock)
        try:
            lock = trying.send(bad)
        except StopIteration:
            lock = None
    assert [each.options for each in locks[:2]] == [("-m", "x"), ("-m", "x", "-W", "default")]
    assert locks[0].packages == ("thing==2020-01-01",)
    assert asked[0] == "2019-01-01"
    assert len(set(locks)) == len(locks)


def test_of_a_requirement_that_is_put_together_the_name_is_known() -> None:
    text = "least = '1'\nsetup(install_requires=['a>=%s' % least, f'b>={least}', 'c<' + least, 'd==2'])\n"
    assert asked_for(text, ()) == (["a", "b", "c", "d==2"], [])


class Running:
    """The program that runs tests, in a directory of ours with our own pytest."""

    def __init__(self, where: Path) -> None:
        program = Path(run_pytest.__file__).read_text()
        command = [sys.executable, "-s", "-S", "-B", "-c", program]
        self.path = [".", sysconfig.get_path("purelib")]
        env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        self.process = subprocess.Popen(
            command, cwd=where, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.say({"warm": [], "path": self.path})

    def say(self, asked: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()

    def run(self) -> list[dict[str, Any]]:
        asked = {"path": self.path, "files": ["test_it.py"], "only": None, "options": [], "trace": False}
        self.say({**asked, "values": False, "fork": 30})
        assert self.process.stdout
        said: list[dict[str, Any]] = []
        while not said or "over" not in said[-1]:
            said.append(json.loads(self.process.stdout.readline()))
        return said


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    shutil.copytree(Path(iniconfig.__file__).parent, tmp_path / "iniconfig")
    (tmp_path / "test_it.py").write_text(
        "import subprocess, sys, iniconfig\n\n\ndef test_it():\n"
        "    command = [sys.executable, '-S', '-c', 'import iniconfig; print(iniconfig.MARK)']\n"
        "    done = subprocess.run(command, capture_output=True)\n"
        "    assert iniconfig.MARK == 1\n    assert done.stdout == b'1\\n'\n"
    )
    running = Running(tmp_path)
    yield running
    running.process.communicate()


def test_what_pytest_itself_needs_can_be_tested_and_is_read_anew_each_time(tmp_path: Path, running: Running) -> None:
    module = tmp_path / "iniconfig/__init__.py"
    text = module.read_text()
    outcomes = []
    for mark in (1, 2, 1):
        module.write_text(f"{text}\nMARK = {mark}\n")
        outcomes += [said["o"] for said in running.run() if "t" in said]
    assert outcomes == ["passed", "failed", "passed"]


def test_a_conftest_that_cannot_be_imported_is_told(tmp_path: Path, running: Running) -> None:
    (tmp_path / "conftest.py").write_text("import not_there_at_all\n")
    (said,) = [said for said in running.run() if "e" in said]
    assert "No module named 'not_there_at_all'" in said["m"]
