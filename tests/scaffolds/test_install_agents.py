"""Agents that cannot be installed say why in one line and leave nothing that looks installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from palmette.errors import UserError
from palmette.scaffolds.cli_agents import CliAgent
from palmette.scaffolds.install import UNREACHABLE, executable, install, installed
from palmette.scaffolds.loop import ToolLoop
from palmette.scaffolds.names import SCAFFOLDS, open_scaffold
from palmette.scaffolds.roster import AGENTS

CLAUDE_CODE, MINI_SWE_AGENT = AGENTS["claude-code"], AGENTS["mini-swe-agent"]


def test_scaffolds_by_name() -> None:
    assert isinstance(open_scaffold("loop"), ToolLoop)
    mini = open_scaffold("mini-swe-agent")
    assert isinstance(mini, CliAgent)
    assert {name: open_scaffold(name).name for name in SCAFFOLDS} == {name: name for name in SCAFFOLDS}
    with pytest.raises(UserError, match="unknown scaffold 'mini-swe'; did you mean 'mini-swe-agent'"):
        open_scaffold("mini-swe")


def test_without_a_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(UserError, match=UNREACHABLE) as refused:
        install(MINI_SWE_AGENT)
    assert "\n" not in str(refused.value)
    assert installed(MINI_SWE_AGENT) is None


def test_other_pins_are_another_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    newer = MINI_SWE_AGENT.model_copy(update={"packages": ("mini-swe-agent==9.9",)})
    assert executable(newer) != executable(MINI_SWE_AGENT)
    assert executable(newer.model_copy()) == executable(newer)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_without_npms_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    with pytest.raises(UserError, match=UNREACHABLE) as refused:
        install(CLAUDE_CODE)
    assert "\n" not in str(refused.value)
    assert installed(CLAUDE_CODE) is None


def test_without_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="claude-code could not be installed: npm: No such file"):
        install(CLAUDE_CODE)
