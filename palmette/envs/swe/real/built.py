"""A project whose environment stands: its files, what it needs, and what its tests come to, in one directory.

ENVS/NAME-VERSION/project.json   the project, its lock, how it was built
                  baseline.json  test -> outcome, digest, values, functions called; places that stay open
                  tree/          the files
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from palmette.envs.locked import Lock
from palmette.envs.swe.real.bench import read_tree
from palmette.envs.swe.real.project import Language, Project, Result
from palmette.envs.swe.real.seal import Place
from palmette.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a project was built: `share` of its tests were collected, `stable` passed alike in every run."""

    collected: int
    share: float
    passed: int
    stable: int
    values: int  # places in tests whose expected value is sealed away
    run_s: float
    build_s: float
    attempts: int
    provenance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A built project; `baseline` holds the stable tests only."""

    project: Project
    lock: Lock
    report: Report
    files: Mapping[str, bytes]
    baseline: Mapping[str, Result]
    open_places: frozenset[int]
    older: Mapping[str, bytes] = field(default_factory=dict)  # files of the release before
    older_version: str = ""

    @property
    def label(self) -> str:
        """What its directory is called."""
        return f"{self.project.name}-{self.project.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """The sealed test files of a project, and what its assertions are, by number."""

    files: Mapping[str, str]
    places: Mapping[int, Place]


def seal_all(
    language: Language, files: Mapping[str, bytes], tests: tuple[str, ...], open_places: frozenset[int] = frozenset()
) -> Sealed:
    """Seal every test file that can be; those that cannot stay as they are."""
    sealed: dict[str, str] = {}
    places: dict[int, Place] = {}
    for path in tests:
        try:
            text, found = language.seal(files[path].decode(), len(places), open_places=open_places)
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        sealed[path] = text
        places |= {place.number: place for place in found}
    return Sealed(files=sealed, places=places)


def save(built: Built, envs: Path) -> Path:
    """Write a built project below `envs`, whole or not at all, in the place of an older one."""
    envs.mkdir(parents=True, exist_ok=True)
    target = envs / built.label
    scratch = Path(tempfile.mkdtemp(prefix=f".{built.label}.", dir=envs))
    try:
        for folder, files in (("tree", built.files), ("older", built.older)):
            for name, data in files.items():
                path = scratch / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        said = {"project": asdict(built.project), "lock": asdict(built.lock), "report": asdict(built.report)}
        said |= {"older_version": built.older_version}
        (scratch / "project.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        tests = {name: [r.outcome, r.digest, r.values, list(r.calls)] for name, r in built.baseline.items()}
        said = {"open_places": sorted(built.open_places), "tests": tests}
        (scratch / "baseline.json").write_text(json.dumps(said) + "\n", encoding="utf-8")
        scratch.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def load(directory: Path) -> Built:
    """Return a built project. Raises `UserError` for a directory that holds none."""
    try:
        said = _json(directory / "project.json")
        measured = _json(directory / "baseline.json")
        lists = {name: _tuples(said[name]) for name in ("project", "lock")}
        return Built(
            project=Project(**lists["project"]),
            lock=Lock(**lists["lock"]),
            report=Report(**said["report"]),
            files=read_tree(directory / "tree"),
            older=read_tree(directory / "older"),
            older_version=said.get("older_version", ""),
            baseline={
                name: Result(outcome=outcome, digest=digest, values=values, calls=tuple(calls))
                for name, (outcome, digest, values, calls) in measured["tests"].items()
            },
            open_places=frozenset(measured["open_places"]),
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{directory}: no project built by 'palmette tasks repo': {error}") from None


def load_all(envs: Path) -> list[Built]:
    """Return all built projects below a directory, by name. Raises `UserError` where there is none."""
    found = sorted(path.parent for path in envs.glob("*/project.json"))
    if not found:
        raise UserError(f"{envs} holds no built project; build one with 'palmette tasks repo NAME --out {envs}'")
    return [load(path) for path in found]


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _tuples(table: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
