"""Every command as a user types it: what it answers, and that every mistake is one line and exit code 2."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from safetensors import SafetensorError

from palmette.cli import explain, main
from palmette.commands.interrupt import run_interruptibly
from palmette.errors import UserError
from palmette.run import RunDir
from palmette.train.recipe import Recipe

PALMETTE = [sys.executable, "-m", "palmette"]
TINY = """\
kind = "base"
name = "tiny"
steps = 2
batch = 2
[shape]
hidden = 32
layers = 1
heads = 2
kv_heads = 1
head_dim = 16
experts = 2
experts_per_token = 1
expert_dim = 16
vocab = 400
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """Return a directory in which ``tasks/`` holds eight checked-in tasks of two domains."""
    path = tmp_path_factory.mktemp("shelf")
    for domain in ("terminal", "swe"):
        assert main(["tasks", "build", domain, "--out", str(path / "tasks" / domain), "--count", "4"]) == 0
    return path


def fails(capsys, *arguments: str) -> str:
    """Run a command that must fail, and return its one line without the "error: "."""
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said.removeprefix("error: ").rstrip()


def test_help_names_every_command_and_needs_nothing_heavy():
    code = (
        "import sys; from palmette.cli import main; main(['--help'])\n"
        "print({'torch', 'transformers', 'numpy', 'pydantic', 'starlette'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for command in ("run", "resume", "eval", "view", "tasks", "config", "doctor", "serve"):
        assert f" {command} " in said
    assert said.rstrip().endswith("set()")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("palmette ")


def test_mistakes_on_the_command_line_are_one_line(capsys, here):
    assert fails(capsys, "rnu") == "no such command 'rnu'. Did you mean 'run'?; see 'palmette --help'"
    assert "'--port'" in fails(capsys, "serve", "x", "--port", "99999999")
    assert fails(capsys, "run", "nothing").startswith("no recipe nothing")
    assert fails(capsys, "resume", "demo") == "runs/demo does not exist"
    assert fails(capsys, "view", "demo") == "runs/demo does not exist"
    assert fails(capsys, "serve", "nothing").startswith("no model nothing: it is neither a directory with config.json")
    assert fails(capsys, "eval", "nothing", "--tasks", "swe").startswith("no model nothing: ")
    assert "did you mean 'loop'" in fails(capsys, "eval", "palmette:base", "--tasks", "swe", "--scaffold", "lop")
    assert "did you mean 'palmette:base'" in fails(capsys, "serve", "palmette:bse")
    assert "did you mean 'terminal'" in fails(capsys, "tasks", "build", "terminl", "--out", "t")
    assert "two splits" in fails(capsys, "tasks", "build", "swe", "--out", "t", "--split", "test")
    assert fails(capsys, "tasks", "check", "missing").startswith("missing is not a directory of tasks")
    assert list(here.iterdir()) == []


def test_a_model_directory_without_tokenizer_is_one_line(capsys, here):
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text("{}")
    assert "tokenizer" in fails(capsys, "serve", "model", "--port", "0")


def test_config_shows_every_value_and_reads_back(capsys, here):
    (here / "mine.toml").write_text('name = "mine"\n')
    assert main(["config", "mine", "--set", "rl.steps=3", "--set", "domains=[swe]"]) == 0
    written = capsys.readouterr().out
    assert 'name = "mine"  # default: "demo"' in written
    (here / "again.toml").write_text(written)
    assert main(["config", "again.toml", "--json"]) == 0
    resolved = json.loads(capsys.readouterr().out)
    assert (resolved["name"], resolved["rl"]["steps"], resolved["domains"]) == ("mine", 3, ["swe"])
    assert "did you mean 'steps'" in fails(capsys, "config", "mine", "--set", "rl.stesp=3")
    assert fails(capsys, "config", "mine", "--set", "rl.steps=x").startswith('--set rl.steps=x: rl.steps = "x": should')
    assert fails(capsys, "config", "mine", "--set", "domains=[swee]").startswith("mine.toml: unknown domain 'swee'")


def test_an_existing_run_is_never_overwritten(capsys, here):
    (here / "mine.toml").write_text("")
    run = RunDir.create(here / "runs" / "mine", Recipe(), seed=4)
    assert "is there already (new); go on with 'palmette resume mine'" in fails(capsys, "run", "mine")
    with run.attempt():
        assert "is being worked on by another process" in fails(capsys, "run", "mine")
        assert "is being worked on" in fails(capsys, "run", "mine", "--fresh")
    assert "has finished already; see 'palmette view mine'" in fails(capsys, "run", "mine")
    assert run.seed == 4


def test_tasks_are_built_shown_and_counted(capsys, shelf):
    capsys.readouterr()
    assert main(["tasks", "stats", str(shelf / "tasks"), "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["tasks"] == 8
    assert sum(row["tasks"] for row in counted["by"] if row["domain"] == "swe") == 4
    assert main(["tasks", "show", str(shelf / "tasks"), "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)
    assert len(tasks) == 8
    assert main(["tasks", "show", tasks[0]["path"], "--json"]) == 0
    task = json.loads(capsys.readouterr().out)
    assert task["steps"][-1]["tool"] == "submit"
    assert "tests/test.sh" in task["files"]
    for arguments in (["show", tasks[0]["path"]], ["show", str(shelf / "tasks")], ["stats", str(shelf / "tasks")]):
        assert main(["tasks", *arguments]) == 0
        assert "swe" in capsys.readouterr().out
    assert "exists already" in fails(capsys, "tasks", "build", "swe", "--out", str(shelf / "tasks" / "swe"))


def test_check_finds_the_task_that_is_broken(capsys, shelf, tmp_path):
    capsys.readouterr()
    assert main(["tasks", "check", str(shelf / "tasks"), "--quick"]) == 0
    assert capsys.readouterr().out == "8 of 8 tasks hold: the reference scores 1 and nothing else (16 tries)\n"
    subprocess.run(["cp", "-r", str(shelf / "tasks"), str(tmp_path)], check=True)
    broken = sorted((tmp_path / "tasks" / "terminal").iterdir())[0]
    (broken / "solution" / "solve.sh").write_text("#!/bin/sh\ntrue\n")
    assert main(["tasks", "check", str(tmp_path / "tasks"), "--quick", "--json"]) == 1
    reports = json.loads(capsys.readouterr().out)
    assert [report["ok"] for report in reports].count(False) == 1
    assert "the reference scores 0" in next(report["reason"] for report in reports if not report["ok"])


def test_a_full_disk_is_one_line(shelf):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PALMETTE, "tasks", "stats", str(shelf / "tasks")], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: the disk is full")
    assert done.stderr.count(b"\n") == 1


def test_a_reader_that_leaves_early_is_no_error(shelf):
    command = " ".join([*PALMETTE, "tasks", "show", str(shelf / "tasks"), "--json"])
    done = subprocess.run(["sh", "-c", f"{command} | head -c 1"], capture_output=True)
    assert (done.stdout, done.stderr) == (b"[", b"")


def test_only_what_the_user_can_mend_is_explained(monkeypatch):
    monkeypatch.setattr("palmette.cli._drop_output", lambda: None)  # this process still needs its standard output
    assert explain(ExceptionGroup("", [UserError("mend it"), ValueError("x")])) == "mend it"
    assert explain(ValueError("ours")) is None
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert str(explain(full)).startswith("the disk is full; free some space")
    assert explain(OSError(2, "gone", "x")) is None


def test_doctor_says_what_is_there(capsys):
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    parts = {finding["part"] for finding in report["findings"]}
    assert {"cores", "memory", "disk", "git", "C compiler", "torch", "base model", "namespace sandbox"} <= parts
    assert report["demo_can_run"] is (code == 0)
    assert report["demo_can_run"] is all(finding["health"] != "missing" for finding in report["findings"])
    assert all(finding["effect"] for finding in report["findings"] if finding["health"] != "ok")


async def save_when_cancelled(log: list[str]) -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        log.append("saved")
        raise


def test_the_first_interrupt_lets_the_work_save(capsys):
    log: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(save_when_cancelled(log), notice="stopping")
    assert log == ["saved"]
    assert capsys.readouterr().err == "\nstopping\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_interrupt_ends_a_step_that_does_not_return():
    async def stuck() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)  # noqa: ASYNC251  a training step never yields

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(stuck(), notice="")
    assert time.monotonic() - started < 5


def test_work_that_ends_by_itself_answers():
    async def answer() -> int:
        return 41

    assert run_interruptibly(answer()) == 41


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return a directory with a run of a very small base model, made by the command line."""
    path = tmp_path_factory.mktemp("trained")
    (path / "tiny.toml").write_text(TINY)
    done = subprocess.run([*PALMETTE, "run", "tiny.toml"], cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.slow
def test_a_finished_run_can_be_viewed_and_resumed(capsys, trained, monkeypatch):
    monkeypatch.chdir(trained)
    assert main(["view", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"
    assert main(["view", "tiny"]) == 0
    assert (trained / "runs" / "tiny" / "report.html").is_file()
    weights = (trained / "runs" / "tiny" / "model" / "model.safetensors").read_bytes()
    assert main(["resume", "tiny"]) == 0
    assert main(["run", "tiny.toml", "--resume"]) == 0
    assert (trained / "runs" / "tiny" / "model" / "model.safetensors").read_bytes() == weights
    assert (trained / "runs" / "tiny" / "logs" / "attempt_3").is_dir()
    capsys.readouterr()
    assert "it has model" in fails(capsys, "serve", "tiny:student")


@pytest.mark.slow
def test_eval_attempts_every_task(capsys, trained, shelf, monkeypatch):
    monkeypatch.chdir(trained)
    wanted = ["--tasks", str(shelf / "tasks" / "terminal"), "--max-tokens", "8", "--samples", "2"]
    assert main(["eval", "tiny", *wanted, "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["overall"]["rollouts"] == 8
    assert sum(score["overall"]["outcomes"].values()) == 8
    assert main(["eval", "tiny", "--tasks", "swe", "--count", "2", "--tier", "1", "--max-tokens", "4"]) == 0
    assert "swe" in capsys.readouterr().out
    rated = trained / "rated"
    assert main(["tasks", "build", "terminal", "--count", "2", "--tier", "1", "--out", str(rated)]) == 0
    assert main(["tasks", "rate", str(rated), "tiny", "--samples", "2", "--max-tokens", "4"]) == 0
    assert "rated 2 of 2 tasks: 2 never solved" in capsys.readouterr().out
    assert main(["tasks", "show", str(rated), "--json"]) == 0
    for task in json.loads(capsys.readouterr().out):
        assert task["complexity"]["pass_rate"] == 0.0
        assert task["complexity"]["rated_by"] == "tiny, loop, 2 samples at temperature 1"
    dropped = trained / "dropped"
    rate = ["tasks", "rate", str(rated), "tiny", "--samples", "1", "--max-tokens", "4", "--drop"]
    assert "lies in" in fails(capsys, *rate, str(rated / "inside"))
    assert main([*rate, str(dropped)]) == 0
    assert "2 moved to" in capsys.readouterr().out
    assert sorted(path.name for path in dropped.iterdir()) == ["terminal-train-00000", "terminal-train-00001"]
    assert not list(rated.iterdir())


@pytest.mark.slow
def test_serve_answers_the_openai_protocol_until_interrupted(trained):
    command = [*PALMETTE, "serve", "tiny", "--port", "0"]
    server = subprocess.Popen(command, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        lines = [server.stdout.readline() for _ in range(3)]
        url = lines[1].split()[0].removeprefix("OPENAI_BASE_URL=")
        body = {"model": "palmette", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
        request = urllib.request.Request(
            f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] <= 5
        port = url.split(":")[2].split("/")[0]
        taken = subprocess.run(
            [*PALMETTE, "serve", "tiny", "--port", port], cwd=trained, capture_output=True, text=True
        )
        assert taken.returncode == 2
        assert taken.stderr.startswith("error: ")
        assert port in taken.stderr
        assert taken.stderr.count("\n") == 1
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
    finally:
        server.kill()
        _, complaint = server.communicate()
    assert complaint == "stopped\n"


@pytest.mark.slow
def test_a_run_that_is_interrupted_says_how_to_go_on(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY.replace("steps = 2", "steps = 100000"))
    run = RunDir(tmp_path / "runs" / "tiny")
    worker = subprocess.Popen([*PALMETTE, "run", "tiny.toml"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (run.path / "metrics.jsonl").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
            assert worker.poll() is None
        worker.send_signal(signal.SIGINT)
        assert worker.wait(timeout=60) == 130
    finally:
        worker.kill()
        _, said = worker.communicate()
    assert said.splitlines()[-1] == "stopped; go on with: palmette resume tiny"
    assert run.state == "interrupted"
