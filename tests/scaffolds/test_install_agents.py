"""Agents that cannot be installed say why in one line and leave nothing that looks installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from palmette.errors import UserError
from palmette.registry import UNREACHABLE
from palmette.scaffolds.cli_agents import CliAgent
from palmette.scaffolds.install import executable, install, installed
from palmette.scaffolds.interpreter import interpreter
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
    assert list((tmp_path / "palmette" / "agents").iterdir()) == []


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
    assert list((tmp_path / "palmette" / "agents").iterdir()) == []


def test_without_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="claude-code could not be installed: npm: No such file"):
        install(CLAUDE_CODE)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_a_package_without_the_program_is_no_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("npm_config_offline", "true")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "package.json").write_text('{"name": "a", "version": "1.0.0", "bin": {"one": "one.js"}}')
    (tmp_path / "package" / "one.js").write_text("#!/usr/bin/env node\n")
    lacking = CLAUDE_CODE.model_copy(update={"packages": (str(tmp_path / "package"),), "argv": ("{bin}/other",)})
    with pytest.raises(UserError, match="was installed without its program other"):
        install(lacking)
    assert list((tmp_path / "palmette" / "agents").iterdir()) == []
    whole = lacking.model_copy(update={"argv": ("{bin}/one",)})
    with ThreadPoolExecutor() as threads:  # two at once make one
        homes = set(threads.map(install, [whole, whole]))
    assert homes == {installed(whole)} == set((tmp_path / "palmette" / "agents").iterdir())


def test_no_python_is_new_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    future = MINI_SWE_AGENT.model_copy(update={"python": "3.21"})
    with pytest.raises(UserError, match=r"no Python 3\.21 or newer on this machine; put one on PATH"):
        install(future)
    assert list((tmp_path / "palmette" / "agents").iterdir()) == []
    assert interpreter("3.0") == interpreter() == Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_ended_in_the_middle_it_leaves_nothing(tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))  # a registry that never answers
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "npm_config_registry": url, "npm_config_cache": str(tmp_path)}
    argv = [sys.executable, "-m", "palmette", "agents", "install", "claude-code"]
    process = subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL)
    server.settimeout(60)
    server.accept()
    process.terminate()
    assert process.wait(timeout=60) == 130
    assert list((tmp_path / "palmette" / "agents").iterdir()) == []
    server.close()
