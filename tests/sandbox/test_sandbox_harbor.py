"""Harbor itself, in an environment of its own, runs our tasks through our environment class."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from palmette.envs.build import build_tasks
from palmette.sandbox import harbor
from palmette.sandbox.image_build import make_image
from palmette.sandbox.images import Images

ROOT = Path(harbor.__file__).resolve().parents[2]
_HARBOR = "harbor==0.24.0"


def _python() -> str | None:
    """Return an interpreter that Harbor runs on (3.12 or newer)."""
    names = [sys.executable, *(shutil.which(f"python3.{minor}") for minor in (12, 13, 14)), shutil.which("python3")]
    names += map(str, sorted(Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python")))  # its shims may refuse to run
    for name in filter(None, names):
        check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))"
        if subprocess.run([name, "-c", check], capture_output=True).returncode == 0:
            return name
    return None


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Harbor's command, freshly installed; skips where that cannot be."""
    python = _python()
    if python is None:
        pytest.skip("Harbor needs Python 3.12 or newer, and there is none here")
    home = tmp_path_factory.mktemp("harbor")
    subprocess.run([python, "-m", "venv", str(home)], check=True, capture_output=True)
    install = [str(home / "bin" / "pip"), "install", "-q", _HARBOR]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"Harbor cannot be installed here: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return home / "bin" / "harbor"


def _trials(program: Path, tasks: Path, jobs: Path, agent: str) -> dict[str, tuple[float | None, str]]:
    """Run every task and return (reward, exception message) by the name of its directory."""
    kind = "palmette.sandbox.harbor:Environment"
    command = [str(program), "run", "--env", kind, "-p", str(tasks), "-a", agent, "--jobs-dir", str(jobs), "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=jobs.parent, timeout=300)
    found = {}
    for path in jobs.glob("*/*/result.json"):
        result = json.loads(path.read_text())
        rewards = (result["verifier_result"] or {}).get("rewards") or {}
        message = (result["exception_info"] or {}).get("exception_message", "")
        found[Path(result["task_id"]["path"]).name] = rewards.get("reward"), message
    assert found, done.stdout + done.stderr
    return found


def _task(directory: Path, dockerfile: str) -> None:
    for name, text in {
        "task.toml": 'version = "1.0"\n[environment]\nnetwork_mode = "no-network"\n',
        "instruction.md": "Copy the word to /srv/answer.\n",
        "environment/Dockerfile": dockerfile,
        "environment/word": "palm",
        "tests/test.sh": 'test "$(cat /srv/answer)" = "palm $KIND built"; echo $((!$?)) > /logs/verifier/reward.txt\n',
        "solution/solve.sh": 'echo "$(cat word) $KIND $(cat /opt/built)" > answer\n',
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: one task runs a command while its image is made")
def test_harbor_runs_our_tasks(program: Path, tmp_path: Path, images: Images, small_root: Path):
    images.name(make_image(images, str(small_root)), "small")
    tasks = tmp_path / "tasks"
    ours = build_tasks("terminal", tasks, count=3, tiers=[1, 2], split="train", seed=5)
    dockerfile = "FROM small\nENV KIND=leaf\nWORKDIR /srv\nRUN echo built > /opt/built\nCOPY word .\n"
    _task(tasks / "imported", dockerfile)
    _task(tasks / "outside", dockerfile + "ENTRYPOINT /serve\n")
    oracle = _trials(program, tasks, tmp_path / "oracle", "oracle")
    assert {name: oracle[name] for name in [task.path.name for task in ours]} == {
        task.path.name: (1.0, "") for task in ours
    }
    assert oracle["imported"] == (1.0, "")
    assert oracle["outside"][0] is None
    assert "Dockerfile:6: ENTRYPOINT: is outside the subset" in oracle["outside"][1]
    shutil.rmtree(tasks / "outside")
    idle = _trials(program, tasks, tmp_path / "idle", "nop")
    assert {reward for reward, _ in idle.values()} == {0.0}, idle


def test_without_harbor_it_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "harbor", None)
    harbor._environment.cache_clear()
    with pytest.raises(ImportError, match="pip install harbor"):
        _ = harbor.Environment
    with pytest.raises(AttributeError):
        _ = harbor.Nothing
