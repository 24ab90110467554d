"""Reads what a JavaScript project says about itself: name, requirements, which files are tests, which the library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from palmette.envs import npm
from palmette.envs.swe.real.project import Project
from palmette.envs.swe.real.syntax import ask

_ENDS = (".js", ".cjs", ".mjs")
_TESTS = {"test", "tests", "__tests__", "spec"}
_ASIDE = {"docs", "doc", "example", "examples", "benchmark", "benchmarks", "bench", "scripts", "tools", "coverage"}
_ASIDE |= {"node_modules", "types", "integration", "website", "fixtures"}
_ALONE = re.compile(
    r"(\.?eslint.*|\.?prettier.*|gruntfile|gulpfile|.*\.config|karma.*|benchmarks?|bench|example)\.\w+", re.I
)
_NAMED = re.compile(r"(test|.*[.\-_](test|spec)|test-.*)\.[cm]?js")
_RUNNER = re.compile(r"""['"](node:test|mocha)['"]""")
_MANNER = re.compile(r"^\s*(describe|it|test|suite)(\.\w+)?\(\s*['\"`]", re.M)
_OTHERS = re.compile(
    r"""['"](tape|tap|ava|jest|@jest/globals|vitest|uvu|jasmine|qunit|zora|lab|@hapi/lab|supertape)['"]"""
)
_MOST_BYTES = 1 << 20  # of one file that is looked into


def discover_javascript(tree: Path) -> Project | None:
    """Return what package.json and the files say, None where there is none or no test that node can run."""
    try:
        said = json.loads((tree / "package.json").read_text(encoding="utf-8"))
        name, version = str(said["name"]), str(said.get("version", "0.0.0"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    scripts = {str(path.relative_to(tree)): path for path in _scripts(tree)}
    manner = _uses_manner(said)
    tests = sorted(path for path, file in scripts.items() if _is_test(path, _read(file), manner=manner))
    sources = [path for path in scripts if path not in tests and _is_source(path)]
    if not tests or not sources:
        return None
    needed = {**_pins(said, "peerDependencies"), **_pins(said, "dependencies")}
    offered = {**_pins(said, "optionalDependencies"), **_pins(said, "devDependencies")}
    imported = _imported(_read(scripts[path]) for path in [*tests, *sources, *_beside(scripts, tests)])
    wished = {package: offered[package] for package in sorted(imported & offered.keys())}
    for pins in (needed, wished):
        pins.pop(name, None)
    return Project(
        name=name.removeprefix("@").replace("/", "-"),
        version=version,
        language="javascript",
        license=str(said.get("license", "")),
        sources=tuple(sources),
        tests=tuple(tests),
        needed=tuple(f"{package}@{pin}" for package, pin in needed.items()),
        wished=tuple(f"{package}@{pin}" for package, pin in wished.items()),
    )


def package_of(specifier: str) -> str:
    """Return the package that is named in an import, "" for a path, an address or what node brings."""
    if specifier.startswith((".", "/", "#")) or ":" in specifier:
        return ""
    name = "/".join(specifier.split("/")[: 2 if specifier.startswith("@") else 1])
    return name if npm.named(name) else ""


def _scripts(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.rglob("*")):
        below = path.relative_to(tree).parts
        if path.suffix in _ENDS and path.is_file() and not path.is_symlink() and "node_modules" not in below:
            yield path


def _is_test(path: str, text: str, *, manner: bool) -> bool:
    place = PurePosixPath(path)
    if _ASIDE & set(place.parts[:-1]) or not (_TESTS & set(place.parts[:-1]) or _NAMED.fullmatch(place.name)):
        return False
    if _OTHERS.search(text):
        return False
    return bool(_RUNNER.search(text) or (manner and _MANNER.search(text)))


def _is_source(path: str) -> bool:
    place = PurePosixPath(path)
    aside = (_ASIDE | _TESTS) & set(place.parts[:-1])
    return not aside and not _ALONE.fullmatch(place.name) and not _NAMED.fullmatch(place.name) and path[0] != "."


def _uses_manner(said: dict[str, Any]) -> bool:
    """Say whether a project's tests are in the manner of mocha, whose functions are there without an import."""
    scripts = " ".join(map(str, (said.get("scripts") or {}).values()))
    return "mocha" in scripts or "mocha" in (said.get("devDependencies") or {})


def _beside(scripts: dict[str, Path], tests: Iterable[str]) -> list[str]:
    """Return the scripts in the directories of tests that are none themselves, which tests may import."""
    return [path for path in scripts if path not in tests and _TESTS & set(PurePosixPath(path).parts[:-1])]


def _imported(texts: Iterable[str]) -> set[str]:
    found = set[str]()
    for text in texts:
        try:
            found |= {package_of(each) for each in ask("specifiers", text)}
        except SyntaxError:
            continue
    return found - {""}


def _pins(said: dict[str, Any], group: str) -> dict[str, str]:
    """Return the requirements of a group that are versions: addresses, paths and workspaces cannot be had from npm."""
    listed = said.get(group)
    pairs = listed.items() if isinstance(listed, dict) else ()
    return {str(k): str(v) or "*" for k, v in pairs if npm.named(str(k)) and not re.search(r"[:/]", str(v))}


def _read(path: Path) -> str:
    if path.stat().st_size > _MOST_BYTES:
        return ""
    return path.read_text(encoding="utf-8", errors="replace")
