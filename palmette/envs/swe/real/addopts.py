"""Reads which of its tests a project runs by itself: of its pytest options, those that choose tests."""

from __future__ import annotations

import configparser
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_CHOOSING = ("-m", "-k", "--ignore", "--ignore-glob", "--deselect", "--import-mode")


def choosing(tree: Path) -> tuple[str, ...]:
    """Return the options of a project's pytest settings that leave tests out or say how they are imported.

    What else is there (reports, coverage, plugins, parallel runs) is for its authors. Broken settings choose nothing.
    """
    for words in _settings(tree):
        return tuple(_chosen(words))
    return ()


def _chosen(words: Sequence[str]) -> Iterator[str]:
    """Yield each option that chooses together with its value, whether that is a word of its own or not."""
    waiting = iter(words)
    for word in waiting:
        name, equals, _ = word.partition("=")
        if name in _CHOOSING and equals and name.startswith("--"):
            yield word
        elif word in _CHOOSING:
            value = next(waiting, None)
            if value is not None:
                yield from (word, value)
        elif word[:2] in ("-m", "-k") and not word.startswith("--"):
            yield from (word[:2], word[2:])


def _settings(tree: Path) -> Iterator[list[str]]:
    """Yield the words of `addopts`, from the file that pytest would read first."""
    for name in ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg"):
        try:
            text = (tree / name).read_text(encoding="utf-8", errors="replace")
            found = _of_toml(text) if name.endswith(".toml") else _of_ini(text)
        except (OSError, ValueError, configparser.Error):
            continue
        if found is not None:
            yield found


def _of_toml(text: str) -> list[str] | None:
    table: Any = tomllib.loads(text)
    for inner in (["tool", "pytest", "ini_options"], ["tool", "pytest"], ["pytest"]):
        found = table
        for name in inner:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict):
            said = found.get("addopts", [])
            return shlex.split(said) if isinstance(said, str) else [str(each) for each in said]
    return None


def _of_ini(text: str) -> list[str] | None:
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    parser.read_string(text)
    for section in ("pytest", "tool:pytest"):
        if parser.has_section(section):
            return shlex.split(parser.get(section, "addopts", fallback="") or "")
    return None
