"""Agents of a user's own, told in TOML: what is accepted, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.errors import UserError
from palmette.scaffolds.agent import WORDS, filled, read_agent, words_in
from palmette.scaffolds.api import Stop
from palmette.scaffolds.cli_agents import CliAgent
from palmette.scaffolds.install import install, readonly_paths
from palmette.scaffolds.names import SCAFFOLDS, open_scaffold
from palmette.scaffolds.roster import AGENTS, OURS

MINE = """\
dialect = "openai_chat"
registry = "none"
argv = ["python3", "agent.py", "{task}"]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agents").mkdir()
    return tmp_path


def told(here: Path, text: str) -> str:
    """Return the one line that refuses an agent file."""
    (here / "agents" / "mine.toml").write_text(text)
    with pytest.raises(UserError) as refused:
        open_scaffold("mine")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_ours_are_read_and_name_their_version() -> None:
    assert list(AGENTS) == sorted(path.stem for path in OURS.glob("*.toml"))
    assert {"mini-swe-agent", "claude-code", "codex", "opencode", "kilo", "gemini-cli", "openclaw"} <= set(AGENTS)
    for name, agent in AGENTS.items():
        assert (agent.name, "{task" in "".join((*agent.argv, *agent.files.values()))) == (name, True)
        assert agent.version in agent.pins[-1] or "@" in agent.pins[-1]


def test_another_version_is_another_agent() -> None:
    newer = AGENTS["codex@9.9.9"]
    assert (newer.version, newer.pins[-1], newer.argv) == ("9.9.9", "@openai/codex@9.9.9", AGENTS["codex"].argv)
    assert isinstance(open_scaffold("codex@9.9.9"), CliAgent)
    with pytest.raises(UserError, match="codex@: it has no other versions"):
        AGENTS["codex@"]


def test_a_file_in_agents_is_a_scaffold(here: Path) -> None:
    (here / "agents" / "mine.toml").write_text(MINE)
    assert "mine" in SCAFFOLDS
    assert "mine" in list(SCAFFOLDS)
    mine = open_scaffold("mine")
    assert isinstance(mine, CliAgent)
    assert (mine.name, mine.agent.stops, mine.readonly) == ("mine", {"0": Stop.SUBMITTED}, ())
    by_path = open_scaffold("agents/mine.toml")
    assert isinstance(by_path, CliAgent)
    assert by_path.agent == mine.agent
    with pytest.raises(UserError, match="mine@2: it has no other versions"):
        open_scaffold("mine@2")


def test_programs_of_its_own_lie_beside_the_file(here: Path) -> None:
    text = MINE.replace("agent.py", "{bin}/agent.py") + 'directory = "mine"\n'
    (here / "agents" / "mine.toml").write_text(text)
    agent = AGENTS["mine"]
    with pytest.raises(UserError, match="mine does not exist"):
        install(agent)
    (here / "agents" / "mine").mkdir()
    assert install(agent) == here / "agents" / "mine"
    assert readonly_paths(agent) == (str(here / "agents" / "mine"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINE + 'dialekt = "x"\n', "agents/mine.toml:4: unknown key 'dialekt'; did you mean 'dialect'?"),
        (MINE.replace("{task}", "{tsk}"), "{tsk} stands for nothing; did you mean 'task'? (write {{tsk}} for"),
        (MINE + '[env]\nKEY = "{apikey}"\n', "{apikey} stands for nothing; did you mean 'api_key'?"),
        (MINE + '[files]\n"c.json" = "{url}"\n', "{url} stands for nothing; known are base_url, root_url"),
        (MINE + '[files]\n"../c.json" = "x"\n', "'../c.json' must be a path below HOME"),
        (MINE.replace("openai_chat", "openai"), "should be 'openai_chat', 'openai_responses', 'anthropic' or 'gemini'"),
        (MINE.replace("none", "npm"), 'registry = "npm" needs packages'),
        (MINE + 'packages = ["x"]\n', 'packages are installed from npm or pypi, not with registry = "none"'),
        (MINE.replace("agent.py", "{bin}/agent.py"), '{bin} needs a directory where registry = "none"'),
        (MINE + '[stops]\n0 = "done"\n', "should be 'submitted', 'gave_up', 'turn_limit'"),
        (MINE + 'say_command = "run it"\n', "needs {command} or {command_json}"),
        (MINE + 'name = "other"\n', "an agent has the name of its file"),
        ('dialect = "gemini"\nregistry = "none"\n', "'argv' is missing; add it"),
        ("dialect = \n", "agents/mine.toml: not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(here: Path, text: str, said: str) -> None:
    assert said in told(here, text)


def test_a_name_of_ours_is_taken(here: Path) -> None:
    (here / "agents" / "codex.toml").write_text(MINE)
    with pytest.raises(UserError, match="there is an agent 'codex' already"):
        open_scaffold("codex")


def test_unknown_agents_are_told_with_a_suggestion(here: Path) -> None:
    (here / "agents" / "mine.toml").write_text(MINE)
    with pytest.raises(UserError, match="unknown scaffold 'mien'; did you mean 'mine'"):
        open_scaffold("mien")
    with pytest.raises(UserError, match=r"agents/mien.toml does not exist; did you mean agents/mine.toml"):
        read_agent(Path("agents/mien.toml"))


@given(st.dictionaries(st.sampled_from(WORDS), st.text()), st.text(alphabet="{}task \\n"), st.text(alphabet='ab:"{}'))
def test_what_is_filled_in_is_never_read_again(words: dict[str, str], before: str, after: str) -> None:
    for word, value in words.items():
        if not words_in(before) and not words_in(after) and not before.endswith("{") and not after.startswith("}"):
            parts = filled(before, words), filled(after, words)
            assert filled(f"{before} {{{word}}} {after}", words) == f"{parts[0]} {value} {parts[1]}"
    assert filled('{{task}} {"a": {}} {other}', words) == '{task} {"a": {}} {other}'
