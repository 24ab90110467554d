"""`palmette agents` as a user types it: list, install, try, and an agent of the user's own from the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from palmette.cli import main
from palmette.scaffolds.install import installed
from palmette.scaffolds.roster import AGENTS

DOCS = Path(__file__).resolve().parent.parent / "docs" / "agents.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the worked example of the documentation in it."""
    blocks = re.findall(r"```\w+\n# (agents/\S+)\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert [path for path, _ in blocks] == ["agents/my_agent.toml", "agents/my_agent/my_agent.py"]
    for path, text in blocks:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["agents", *arguments]) == code
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["agents", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said.removeprefix("error: ").rstrip()


def test_list_names_ours_and_yours(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = asked(capsys, "list").splitlines()
    assert lines[0].split() == ["agent", "version", "dialect", "from", "installed"]
    assert {line.split()[0] for line in lines[1:]} == {*AGENTS} > {"my_agent", "codex"}
    rows = {row["name"]: row for row in json.loads(asked(capsys, "list", "--json"))}
    assert rows["my_agent"]["file"] == "agents/my_agent.toml"
    assert rows["codex"]["packages"][-1] == f"@openai/codex@{rows['codex']['version']}"


def test_the_documented_agent_solves_a_task_and_leaves_an_exact_tree(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = json.loads(asked(capsys, "try", "my_agent", "--json"))
    assert (seen["outcome"], seen["reward"], seen["exact"]) == ("ok", 1.0, True)
    assert [(each["dialect"], each["messages"], each["tools"]) for each in seen["requests"]] == [
        ("openai_chat", 1, 1),
        ("openai_chat", 3, 1),
        ("openai_chat", 6, 1),
        ("openai_chat", 8, 1),
    ]
    assert (seen["calls"], seen["turns"], seen["branches"], seen["forks_at"]) == ({"bash": 4}, 4, 1, [])
    assert seen["exactness"]["found"] == 4
    assert seen["exactness"]["unanswered"] == seen["exactness"]["foreign"] == 0


def test_an_agent_that_does_nothing_is_shown_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (here / "agents" / "my_agent.toml").read_text().replace('"python3", "{bin}/my_agent.py"', '"echo"')
    (here / "agents" / "lazy.toml").write_text(text)
    said = asked(capsys, "try", "--file", "agents/lazy.toml", "--task", "Do as you like.", code=1)
    assert "gave_up, reward 0" in said
    assert "no request came" in said


def test_a_task_of_the_users(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "build", "terminal", "--out", "tasks", "--count", "1"]) == 0
    task = next(path.parent for path in (here / "tasks").rglob("task.toml"))
    capsys.readouterr()
    said = asked(capsys, "try", "my_agent", "--task", str(task))
    assert re.search(r"outcome +ok, reward 1, ", said)
    assert re.search(r"exact +yes", said)
    assert re.search(r"^[\d,]+ given · \d+ sampled · ", said, re.MULTILINE)


def test_mistakes_are_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "try", "codx").startswith("unknown agent 'codx'; did you mean 'codex'?")
    assert "name an agent" in refused(capsys, "try")
    assert "name an agent" in refused(capsys, "install", "codex", "--file", "agents/my_agent.toml")
    assert "nowhere.toml does not exist" in refused(capsys, "try", "--file", "nowhere.toml")
    assert "my_agent@2: it has no other versions" in refused(capsys, "install", "my_agent", "--version", "2")
    assert "there is no task.toml in it" in refused(capsys, "try", "my_agent", "--task", "agents")
    (here / "agents" / "my_agent.toml").write_text("dialect = 1\n")
    assert "agents/my_agent.toml" in refused(capsys, "list")


def test_a_recipe_finds_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.toml").write_text('scaffold = "my_agent"\n')
    assert main(["config", "mine"]) == 0
    assert 'scaffold = "my_agent"' in capsys.readouterr().out
    assert main(["config", "mine", "--set", "scaffold=my_agnt"]) == 2
    assert "did you mean 'my_agent'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "messages", "calls", "branches"),
    [
        ("mini-swe-agent", [2, 4, 7, 9], {"bash": 5}, 1),
        ("openhands", [2, 4, 7, 9], {"terminal": 4, "finish": 1}, 1),
        ("swe-agent", [2, 4, 6, 6, 8], {"bash": 4, "submit": 2}, 3),  # two calls at once are refused and dropped
        ("terminus-2", [1, 3, 5, 7, 9], {}, 1),  # no tools: commands in its text, and asked twice whether it is done
    ],
)
def test_an_agent_from_pypi(
    name: str, messages: list[int], calls: dict[str, int], branches: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if installed(AGENTS[name]) is None:
        pytest.skip(f"{name} is not installed; 'palmette agents install {name}' does it (hundreds of MiB)")
    seen = json.loads(asked(capsys, "try", name, "--json"))
    assert (seen["outcome"], seen["reward"], seen["exact"]) == ("ok", 1.0, True)
    assert [each["messages"] for each in seen["requests"]] == messages
    assert (seen["calls"], seen["branches"]) == (calls, branches)
