"""Proves: a project nobody has seen gets an environment, bugs are put in that its tests notice, what tests expect never
stands beside the code under test, and no attack scores on the tasks that come of it."""

import asyncio
import io
import json
import random
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from palmette.commands.projects import repo
from palmette.envs.attacks import attacks_on
from palmette.envs.check import check_tasks
from palmette.envs.locked import Lock
from palmette.envs.swe.real.addopts import choosing
from palmette.envs.swe.real.bugs import Candidate, Evidence, Hunt, Terms
from palmette.envs.swe.real.build import build_project
from palmette.envs.swe.real.built import Built, load, save
from palmette.envs.swe.real.fetch import fetch
from palmette.envs.swe.real.issue import leaks, phrasings
from palmette.envs.swe.real.make import make_tasks
from palmette.envs.swe.real.mutate import mutations
from palmette.envs.swe.real.project import Result, Run
from palmette.envs.swe.real.python import Python
from palmette.envs.swe.real.releases import by_release
from palmette.envs.swe.real.repair import complaints
from palmette.envs.swe.real.reproduce import plain, reproduction
from palmette.envs.swe.real.seal import sealed
from palmette.errors import UserError
from palmette.sandbox.api import Host
from palmette.sandbox.hosts import open_host

LIBRARY = '''\
"""Words."""


def chunks(items, size):
    """Cut a list into lists of a size; the last may be shorter."""
    if size < 1:
        raise ValueError("size must be positive")
    found = []
    for start in range(0, len(items), size):
        found.append(items[start:start + size])
    return found


def initials(text, limit=3):
    letters = [word[0].upper() for word in text.split() if word]
    return "".join(letters[:limit])


class Counter:
    def __init__(self):
        self.seen = {}

    def add(self, word, times=1):
        self.seen[word] = self.seen.get(word, 0) + times
        return self.seen[word]
'''
TESTS = """\
import pytest

import wordy
from wordy.text import Counter, chunks, initials


def test_chunks():
    assert chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert chunks([], 3) == []
    with pytest.raises(ValueError):
        chunks([1], 0)


@pytest.mark.parametrize("size, expected", [(1, [[7], [8]]), (2, [[7, 8]]), (3, [[7, 8]])])
def test_sizes(size, expected):
    assert chunks([7, 8], size) == expected


def test_initials():
    assert initials("ada lovelace") == "AL"
    assert initials("a b c d") == "ABC"
    assert initials("a b c d", limit=2) == "AB"


class TestCounter:
    def test_add(self):
        counter = Counter()
        counter.add("x")
        assert counter.add("x", 2) == 3
        assert counter.seen == {"x": 3}

    def test_new(self):
        assert Counter().seen == {}


def test_version():
    assert wordy.__version__ == "1.2"
"""
FILES = {
    "PKG-INFO": "Metadata-Version: 2.1\nName: wordy\nVersion: 1.2\nLicense: MIT\nRequires-Python: >=3.8\n",
    "pyproject.toml": "[project]\nname = 'wordy'\nversion = '1.2'\n[tool.pytest.ini_options]\naddopts = '--cov'\n",
    "wordy/__init__.py": '__version__ = "1.2"\n',
    "wordy/text.py": LIBRARY,
    "tests/test_text.py": TESTS,
}


def sdist(folder: Path, **changes: str) -> Path:
    path = folder / "wordy-1.2.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in (FILES | changes).items():
            info = tarfile.TarInfo(f"wordy-1.2/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("wordy")

    async def build() -> Built:
        host = open_host("namespace")
        try:
            return await build_project(str(sdist(folder)), host)
        finally:
            await host.close()

    return load(save(asyncio.run(build()), folder / "envs"))


async def test_an_sdist_becomes_tasks_that_hold_against_every_attack(host: Host, built: Built, tmp_path: Path) -> None:
    assert (built.report.collected, built.report.stable, built.report.share) == (8, 8, 1.0)
    assert built.baseline["tests/test_text.py::test_initials"].values == 3
    made = await make_tasks(built, host, tmp_path / "tasks", count=4, tiers=[4, 5], seed=1)
    assert len(made.tasks) == 4
    assert len({task.skills for task in made.tasks}) >= 3
    reports = await check_tasks(made.tasks[1:], host, concurrency=2)
    assert {report.reason for report in reports} == {"ok"}
    (attacked,) = await check_tasks(made.tasks[:1], host, attacks=attacks_on, repeats=2)
    assert attacked.reason == "ok"
    for task in made.tasks:
        named = "wordy/text.py" in task.instruction
        assert named == (task.tier == 4)
        assert "expected" in task.instruction
        shown = (task.path / "environment/files/tests/test_text.py").read_text()
        checks = json.loads((task.path / "tests/checks.json").read_text())["goals"][0]["checks"][0]
        hidden = (task.path / "tests/hidden/tests/test_text.py").read_text()
        assert "[[1, 2], [3, 4], [5]]" not in hidden
        assert set(checks["tests"]) <= set(built.baseline)
        assert shown.count("def test_") < TESTS.count("def test_")
        assert not (task.path / "tests/reference").exists()


async def test_what_a_release_mended_is_undone_hunk_by_hunk(host: Host, built: Built, tmp_path: Path) -> None:
    older = LIBRARY.replace("range(0, len(items), size)", "range(0, len(items) - 1, size)")
    older = older.replace("limit=3", "limit=2").replace('"""Words."""', '"""Some words."""')
    before = replace(built, older={"text.py": b"", "wordy/text.py": older.encode()}, older_version="1.1")
    kinds = Counter(candidate.kind for candidate in by_release(before, random.Random(1)))
    assert kinds == {"hunk": 3, "file": 1}
    made = await make_tasks(before, host, tmp_path / "tasks", count=9, tiers=[6], seed=1)
    assert len(made.tasks) >= 2
    assert made.rejected["no test notices"] == 1
    assert {task.tier for task in made.tasks} == {6}
    assert {report.reason for report in await check_tasks(made.tasks, host, concurrency=2)} == {"ok"}


async def test_a_change_that_never_ends_is_stopped_by_the_work_it_does_and_others_go_on(
    host: Host, built: Built
) -> None:
    endless = LIBRARY.replace("    found = []\n", "    found = []\n    while size:\n        pass\n")
    wrong = LIBRARY.replace("limit=3", "limit=2")
    candidates = [Candidate(kind="x", files={"wordy/text.py": text}, where="") for text in (endless, wrong)]
    async with Hunt(host, built, Terms(least_hidden=1)) as hunt:
        found = [bug async for bug in hunt.bugs(candidates)]
    assert hunt.rejected == {"worked longer than it may": 1}
    assert [bug.fail_to_pass for bug in found] == [("tests/test_text.py::test_initials",)]


async def test_a_lie_about_one_value_of_a_hidden_test_is_seen(host: Host, built: Built, tmp_path: Path) -> None:
    from palmette.envs.grade import Grader
    from palmette.envs.prepare import prepare, spec_for

    made = await make_tasks(built, host, tmp_path / "tasks", count=1, tiers=[5], seed=2)
    (task,) = made.tasks
    sandbox = await host.start(spec_for(task, owner="test"))
    await prepare(sandbox, task)
    await sandbox.write("wordy/text.py", LIBRARY.encode())
    assert (await Grader(host).grade(task, sandbox)).reward == 1.0
    swapped = LIBRARY.replace(
        "found = []", "if items == [1, 2, 3, 4, 5]:\n        return [[1, 2], [3, 4], [6]]\n    found = []"
    )
    swapped = swapped.replace("    letters = ", "    if limit == 2:\n        return 'AC'\n    letters = ")
    await sandbox.write("wordy/text.py", swapped.replace("+ times", "+ times * 2").encode())
    assert (await Grader(host).grade(task, sandbox)).reward == 0.0


def test_a_project_that_cannot_be_built_is_one_line_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    broken = sdist(bad, **{"wordy/__init__.py": "from ._speedups import fast\n"})
    (tmp_path / "no.tar.gz").write_bytes(b"nothing")
    out = tmp_path / "envs"
    assert repo([str(broken), str(tmp_path / "no.tar.gz")], out, sandbox="namespace", as_json=True) == 1
    said = json.loads(capsys.readouterr().out)
    assert "at most 0% of its tests are collected" in said[str(broken)]
    assert "_speedups" in said[str(broken)]
    assert "not an archive" in said[str(tmp_path / "no.tar.gz")]
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "text", "chosen"),
    [
        (
            "pyproject.toml",
            "[tool.pytest.ini_options]\naddopts = '--cov=x -m \"not stress\" -n auto'",
            ("-m", "not stress"),
        ),
        (
            "pyproject.toml",
            "[tool.pytest]\naddopts = ['--ignore=old', '-ra', '-kfast']",
            ("--ignore=old", "-k", "fast"),
        ),
        ("setup.cfg", "[tool:pytest]\naddopts =\n  --doctest-modules\n  --deselect a::b", ("--deselect", "a::b")),
        ("tox.ini", "[testenv]\ndeps = x\n", ()),
        ("pytest.ini", "[pytest]\naddopts = 'never closed", ()),
    ],
)
def test_which_tests_its_authors_leave_out_is_read_from_a_project_s_settings(
    name: str, text: str, chosen: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    assert choosing(tmp_path) == chosen


def test_a_sealed_test_no_longer_knows_what_it_expects_and_keeps_its_lines() -> None:
    text, places = sealed(TESTS)
    assert "__seen__(0, (chunks([1, 2, 3, 4, 5], 2)))" in text
    assert "[[1, 2], [3, 4], [5]]" not in text
    assert '"AL"' not in text
    assert "assert __seen__(2, (chunks([7, 8], size))) == expected" in text
    assert text.count("\n") == TESTS.count("\n")
    compile(text, "sealed", "exec")
    assert places[0].before == "from wordy.text import chunks"
    assert places[2].free == ("expected", "size")[1:]
    opened, _ = sealed(TESTS, open_places={0})
    assert "assert chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]" in opened


def test_sealing_knows_the_asserts_of_unittest_and_leaves_alone_what_it_does_not_understand() -> None:
    text, _ = sealed(
        "def test(self):\n    self.assertEqual(f(1),\n        [2,\n         3])\n    self.assertTrue(g(x))\n"
        "    self.assertEqual(f(1), h(2))\n    self.assertAlmostEqual(f(1), 2.0)\n    assert not x\n    y()\n"
    )
    assert text.splitlines() == [
        "def test(self):",
        "    __seen__(0, (f(1)))",
        "",
        "",
        "    __holds__(1, g(x))",
        "    self.assertEqual(f(1), h(2))",
        "    self.assertAlmostEqual(f(1), 2.0)",
        "    __holds__(2, (not x))",
        "    y()",
    ]


def test_mutations_are_of_many_kinds_and_change_nothing_else() -> None:
    found = mutations("wordy/text.py", LIBRARY)
    assert {m.kind for m in found} >= {"boundary", "comparison", "guard", "constant", "default", "slice", "arithmetic"}
    assert {m.kind for m in found} >= {"variable", "return", "exception", "arguments"}
    for mutation in found:
        changed = mutation.apply(LIBRARY).encode()
        data = LIBRARY.encode()
        assert changed != data
        assert changed[: mutation.start] == data[: mutation.start]
        assert changed[mutation.start + len(mutation.new.encode()) :] == data[mutation.end :]


def test_the_order_of_mutations_is_that_of_the_seed() -> None:
    first = Python().mutations("a.py", LIBRARY, random.Random(1))
    assert first == Python().mutations("a.py", LIBRARY, random.Random(1))
    assert first != Python().mutations("a.py", LIBRARY, random.Random(2))


def test_tests_are_taken_out_whole_and_a_class_keeps_a_body() -> None:
    left = Python().without(TESTS, {"test_sizes[1-expected0]", "TestCounter::test_add", "TestCounter::test_new"})
    compile(left, "left", "exec")
    assert "parametrize" not in left
    assert "def test_add" not in left
    assert "class TestCounter:\n        pass" in left.replace("\n\n", "\n") or "pass" in left
    assert "def test_chunks" in left


def test_an_issue_that_holds_a_line_of_the_answer_is_found() -> None:
    assert leaks(["use  found.append( items[0] )"], ["    found.append(items[0])"]) == "found.append(items[0])"
    assert leaks(["it gives 5"], ["return 5"]) == ""


REPRODUCED = '''\
import pytest

import lib
from lib import f


@pytest.mark.parametrize("args, size", [([1, "a"], 2)])
def test_x(args, size):
        text = """
                two
        deep"""
        with pytest.raises(ValueError):
            f(None)
        assert lib.g(text, *args) == 5
        assert size in f(3)
        actual = f(
            text, size
        )
        assert actual == "x"
'''


def test_what_shows_a_bug_is_what_the_test_did_said_as_short_as_a_user_would() -> None:
    _, places = sealed(REPRODUCED)
    given = {"args": "[1, 'a']", "size": "2"}
    called, held, named = (reproduction(place, given) for place in places)
    text = 'text = """\n                two\n        deep"""'
    assert called == (f"import lib\n{text}", "lib.g(text, 1, 'a')")
    assert held == ("from lib import f", "2 in f(3)")
    assert named == (f"from lib import f\nsize = 2\n{text}", "f(\n    text, size\n)")
    for before, subject in (called, held, named):
        compile(f"{before}\n{subject}", "reproduction", "exec")
    assert not plain("<Colour.RED: 1>")


def test_an_environment_in_which_all_fails_as_before_is_known_by_what_it_says() -> None:
    def run(*told: tuple[str, str]) -> Run:
        return Run(results={str(n): Result(outcome=o, digest="", message=m) for n, (o, m) in enumerate(told)})

    first = run(("error", "not compiled at 0x7f1a2b3c"), ("skipped", ""), ("error", "not compiled at 0x7f1a2b3d"))
    assert complaints(first) == complaints(run(("error", "not compiled at 0x123456"))) == {"not compiled at 0"}
    assert complaints(first) != complaints(run(("error", "no module named x")))
    assert not complaints(run(("error", "not compiled"), ("passed", "")))


def test_what_asks_for_truth_alone_is_told_as_such() -> None:
    _, (place,) = sealed("def test(self):\n    self.assertIn(1 + 1, f(2))\n")
    assert place.subject == "(1 + 1) in f(2)"
    told = Evidence(test="t", subject=place.subject, before="", got="False", want="True", raises=False, truth=True)
    said = phrasings(told, project="lib", version="1", path="", rng=random.Random(1))
    assert "`(1 + 1) in f(2)` is false, expected it to be true." in said["request"]
    assert "(1 + 1) in f(2) is false, should be true." in said["colloquial"]


def test_an_archive_that_leads_out_or_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("x/a.py", "x/../../evil.py"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"1"))
    fetch(str(path), tmp_path / "out" / "x")
    assert sorted(p.name for p in tmp_path.rglob("*.py")) == ["a.py"]
    with pytest.raises(UserError, match="no such file or directory, and no name of a package"):
        fetch("./nothing/here", tmp_path / "y")


def test_a_lock_s_key_is_what_is_in_it() -> None:
    one = Lock(python="3.11", packages=("a==1",), name="x", version="1")
    assert one.key == Lock(python="3.11", packages=("a==1",), name="x", version="1", roots=("src",)).key
    assert one.key != Lock(python="3.11", packages=("a==2",), name="x", version="1").key
