"""Proves: what is generated cannot be fooled by any attack we know, verifiers that can be are found out, and one broken
task stops no other."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from palmette.commands.tasks import Checking, check
from palmette.envs.api import Draft, Step, Task
from palmette.envs.attacks import attacks_on
from palmette.envs.build import build_tasks, drafts
from palmette.envs.check import CheckReport, check_tasks
from palmette.envs.checks import Check, judged, text
from palmette.envs.grade import Grader
from palmette.envs.names import DOMAINS
from palmette.envs.prepare import prepare, spec_for
from palmette.envs.task import load_task, load_whole, write_task
from palmette.errors import UserError
from palmette.sandbox.api import Host
from palmette.sandbox.hosts import open_host

NAIVE_PYTEST = """\
mkdir -p /logs/verifier; cp /tests/test_hidden.py tests/
cd /logs/verifier; python3 -m pytest -q /app/tests >out.txt 2>&1 && echo 1 > reward.txt || echo 0 > reward.txt
"""
COMPARES_FILES = """\
mkdir -p /logs/verifier; echo 0 > /logs/verifier/reward.txt
cmp -s answer.txt /tests/answer.txt && echo 1 > /logs/verifier/reward.txt; true
"""


def bug(tests: dict[str, str]) -> Draft:
    """Return a task whose reference corrects a function, judged by `tests`."""
    (draft,) = drafts("swe", count=1, tiers=[1], split="train", seed=3)
    return replace(draft, test_files=tests)


async def checked(task: Task, host: Host) -> CheckReport:
    (report,) = await check_tasks([task], host, attacks=attacks_on, repeats=2, concurrency=1)
    return report


@pytest.mark.parametrize("name", DOMAINS)
async def test_no_attack_scores_on_a_generated_task(name: str, host: Host, tmp_path: Path) -> None:
    (task,) = build_tasks(name, tmp_path, count=1, tiers=[2], split="heldout", seed=5)
    report = await checked(task, host)
    assert report.reason == "ok"
    rewards = {trial.name: trial.reward for trial in report.trials}
    assert rewards.pop("reference") == 1.0
    assert set(rewards.values()) == {0.0}
    assert len(rewards) == 1 + len(attacks_on(name))


async def test_a_verifier_that_runs_pytest_where_the_agent_worked_is_found_out(host: Host, tmp_path: Path) -> None:
    draft = bug({})
    module = next(path for path in draft.files if path.startswith("tests/"))
    hidden = str(draft.files[module]) + "\ndef test_hidden():\n    assert False, 'only a cheat gets here'\n"
    task = write_task(replace(draft, test_files={"test.sh": NAIVE_PYTEST, "test_hidden.py": hidden}), tmp_path / "x")
    script = next(attack for attack in attacks_on("swe") if attack.name == "exit_zero").script
    sandbox = await host.start(spec_for(task, owner="test"))
    await prepare(sandbox, task)
    assert (await Grader(host).grade(task, sandbox)).reward == 0.0
    await sandbox.exec(["sh", "-c", script], env={"TASK_INSTRUCTION": task.instruction})
    assert (await Grader(host).grade(task, sandbox)).reward == 1.0  # the attack is a real one


async def test_links_into_the_tests_of_a_verifier_are_not_followed(host: Host, tmp_path: Path) -> None:
    step = Step(tool="bash", arguments={"command": "echo kavo > answer.txt"}, observation="(no output)")
    draft = replace(
        bug({"test.sh": COMPARES_FILES, "answer.txt": "kavo\n"}),
        instruction="Write the word to answer.txt.",
        steps=(step, Step(tool="submit", arguments={}, observation="submitted")),
    )
    assert (await checked(write_task(draft, tmp_path / "x"), host)).reason == "ok"


async def test_what_was_to_be_deleted_is_not_when_a_link_out_stands_there(host: Host, tmp_path: Path) -> None:
    script = "cd /app; mkdir -p /logs/verifier; [ ! -e gone.txt ]; echo $((1 - $?)) > /logs/verifier/reward.txt\n"
    task = write_task(bug({"test.sh": script}), tmp_path / "x")
    sandbox = await host.start(spec_for(task, owner="test"))
    await prepare(sandbox, task)
    assert (await Grader(host).grade(task, sandbox)).reward == 1.0
    for target in ("/dev/zero", "/tests/test.sh", "../logs", "/", "/proc/1/environ"):
        await sandbox.exec(["ln", "-sfn", target, "gone.txt"])
        assert (await Grader(host).grade(task, sandbox)).reward == 0.0, target


async def test_a_task_graded_where_the_agent_worked_falls_to_the_first_attack_that_scores(
    host: Host, tmp_path: Path
) -> None:
    script = "mkdir -p /logs/verifier\n[ -e done.txt ] && echo 1 > /logs/verifier/reward.txt; true\n"
    step = Step(tool="bash", arguments={"command": "touch done.txt"}, observation="(no output)")
    steps = (step, Step(tool="submit", arguments={}, observation="submitted"))
    task = write_task(replace(bug({"test.sh": script}), steps=steps), tmp_path / "x")
    toml = task.path / "task.toml"
    toml.write_text(toml.read_text().replace('"separate"', '"shared"'))
    (task.path / "tests/test.sh").write_text(
        script.replace("; true", " || [ -s /logs/verifier/reward.txt ] || echo 0 > /logs/verifier/reward.txt")
    )
    report = await checked(load_task(task.path), host)
    assert not report.ok
    assert report.reason.startswith("attack ")
    assert "scores 1, expected 0" in report.reason


async def test_a_verifier_that_is_killed_by_what_it_judges_says_zero(host: Host, tmp_path: Path) -> None:
    script = "mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt; sh ./own.sh $$; sleep 5\n"
    task = write_task(bug({"test.sh": script}), tmp_path / "x")
    sandbox = await host.start(spec_for(task, owner="test"))
    await prepare(sandbox, task)
    await sandbox.write("own.sh", b"kill -9 $1\n")
    verdict = await Grader(host).grade(task, sandbox)
    assert verdict.reward == 0.0
    assert "killed from inside" in verdict.detail


async def test_the_judge_s_kinds_hold_and_miss(host: Host, tmp_path: Path) -> None:
    server = (
        "import http.server as h\nclass H(h.BaseHTTPRequestHandler):\n    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'up ' + self.path.encode())\n"
        "    def log_message(self, *a): pass\nh.HTTPServer(('127.0.0.1', 8123), H).serve_forever()\n"
    )
    files = {
        "a.txt": "one\ntwo\n",
        "a.json": '{"k": [1, 2]}',
        "d/x.txt": "x\n",
        "d/e/y.txt": "y\n",
        "double.sh": "tee in.txt | sed p; sleep 100 &\n",
        "s.py": server,
        "start.sh": "python3 s.py & sleep 0.1\n",
        "m.py": "def f(a):\n    print('noise')\n    return {'v': a + 1.5}\n",
        "loop.sh": "while :; do :; done\n",
    }
    ask = {"path": "/q", "text": "up /q"}
    right = [
        text("a.txt", "one\ntwo"),
        {"kind": "bytes", "path": "a.txt", "hex": b"one\ntwo\n".hex()},
        {"kind": "lines", "path": "a.txt", "lines": ["two", "one"]},
        {"kind": "json", "path": "a.json", "value": {"k": [1, 2]}},
        {"kind": "absent", "path": "b.txt"},
        {"kind": "mode", "path": "m.sh", "mode": "750"},
        {"kind": "link", "path": "l", "target": "a.txt"},
        {"kind": "tree", "path": "d", "files": {"x.txt": "x", "e/y.txt": "y"}},
        {"kind": "archive", "path": "d.tar.gz", "files": {"d/x.txt": "x", "d/e/y.txt": "y"}},
        {
            "kind": "run",
            "argv": ["sh", "double.sh"],
            "stdin": "q\n",
            "stdout": "q\nq",
            "then": [text("in.txt", "q")],
        },
        {"kind": "calls", "module": "m", "function": "f", "cases": [["(1,)", "{'v': 2.5}"]]},
        {"kind": "serve", "argv": ["sh", "start.sh"], "port": 8123, "asks": [ask]},
    ]
    wrong = [
        text("a.txt", "one"),
        text("l", "one\ntwo"),  # right text behind a link
        text("missing.txt", ""),
        {**right[1], "hex": "00"},
        {**right[2], "lines": ["one"]},
        {**right[3], "value": {"k": [1]}},
        {"kind": "absent", "path": "l"},
        {**right[5], "mode": "755"},
        {**right[6], "target": "d"},
        {**right[7], "files": {"x.txt": "x"}},
        {**right[8], "files": {"d/x.txt": "x", "d/e/y.txt": "z"}},
        {**right[8], "path": "a.txt"},
        {**right[9], "stdout": "q"},
        {**right[9], "then": [text("in.txt", "z")]},
        {"kind": "run", "argv": ["sh", "loop.sh"], "timeout_s": 0.2},
        {**right[10], "cases": [["(1,)", "2.5"]]},
        {**right[10], "function": "g"},
        {**right[11], "port": 8124, "timeout_s": 0.3},
        {**right[11], "asks": [{"path": "/q", "text": "down"}]},
    ]
    draft = replace(bug({}), files=files, git=False)

    async def reward(number: int, kinds: list[Check]) -> tuple[float, object]:
        task = write_task(replace(draft, test_files=judged([("all", kinds)])), tmp_path / str(number))
        sandbox = await host.start(spec_for(task, owner="test"))
        await prepare(sandbox, task)
        made = await sandbox.exec("ln -s a.txt l; touch m.sh; chmod 750 m.sh; tar czf d.tar.gz d")
        assert made.exit_code == 0
        verdict = await Grader(host).grade(task, sandbox)
        await sandbox.close()
        return verdict.reward, verdict.detail if number == 0 else kinds

    rewards = await asyncio.gather(*(reward(n, kinds) for n, kinds in enumerate([right, *([one] for one in wrong)])))
    assert rewards[0][0] == 1.0, rewards[0]
    assert [row for row in rewards[1:] if row[0] != 0.0] == []


async def test_attacks_are_refused_where_nothing_would_hold_them(tmp_path: Path) -> None:
    tasks = build_tasks("terminal", tmp_path, count=1, tiers=[1], split="train", seed=1)
    host = open_host("fake")
    with pytest.raises(UserError, match="has no walls"):
        await check_tasks(tasks, host, attacks=attacks_on)
    await host.close()


def test_a_broken_task_is_named_with_its_line_and_set_aside_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "tasks"
    good, slow, binary, mute = build_tasks("terminal", root, count=4, tiers=[1], split="train", seed=1)
    toml = slow.path / "task.toml"
    toml.write_text(toml.read_text().replace("timeout_sec = 60.0", 'timeout_sec = "soon"'))
    (binary.path / "instruction.md").write_bytes(b"fine\n\xff\xfe\n")
    (mute.path / "solution/solve.sh").unlink()
    (good.path / "loop").symlink_to(root)
    assert check(root, Checking(quick=True, reject=tmp_path / "bad"), as_json=True) == 1
    rows = {Path(row["path"]).name: row for row in json.loads(capsys.readouterr().out)}
    line = toml.read_text() if toml.exists() else (tmp_path / "bad" / slow.path.name / "task.toml").read_text()
    number = line.splitlines().index('timeout_sec = "soon"') + 1
    assert rows[good.path.name]["ok"]
    assert f"task.toml:{number}: timeout_sec must be a number of seconds" in rows[slow.path.name]["reason"]
    assert "instruction.md:2: not UTF-8" in rows[binary.path.name]["reason"]
    assert "solve.sh is missing" in rows[mute.path.name]["reason"]
    assert sorted(path.name for path in (tmp_path / "bad").iterdir()) == sorted(
        task.path.name for task in (slow, binary, mute)
    )
    assert [task.name for task in load_whole(root)[0]] == [good.name]


def test_every_attack_says_what_it_tries() -> None:
    for name in DOMAINS:
        attacks = attacks_on(name)
        assert len(attacks) >= 12
        assert all(attack.says.endswith(".") for attack in attacks)
        assert len({attack.name for attack in attacks}) == len(attacks)


def test_own_attacks_join_and_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no attack"):
        attacks_on("swe", tmp_path)
    (tmp_path / "mine.sh").write_text("# Does nothing.\ntrue\n")
    assert attacks_on("swe", tmp_path)[-1].name == "mine"
