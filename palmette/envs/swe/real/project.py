"""What is known of a real project, and what a language has to know for its projects to become tasks."""

from __future__ import annotations

import random
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from palmette.envs.locked import Lock
from palmette.envs.swe.real.seal import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project as its own files describe it; paths are relative to its top."""

    name: str
    version: str
    language: str
    license: str = ""
    roots: tuple[str, ...] = (".",)  # directories that modules are imported from
    sources: tuple[str, ...] = ()  # the library: directories and files
    tests: tuple[str, ...] = ()  # files with tests
    needed: tuple[str, ...] = ()  # requirements of the library
    wished: tuple[str, ...] = ()  # requirements of its tests, as far as they can be found
    pythons: str = ""  # what it says of versions, such as ">=3.9"
    before: tuple[str, ...] = ()  # days its packages are to be older than, the likeliest first, as YYYY-MM-DD
    entry_points: str = ""
    options: tuple[str, ...] = ()  # for the test runner: which tests its authors run


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One small change of a source file: bytes `start` to `end` become `new`, in the function that begins at `line`."""

    kind: str
    path: str
    function: str
    line: int
    start: int
    end: int
    new: str

    def apply(self, text: str) -> str:
        """Return the changed text; every byte outside of the change stays."""
        data = text.encode()
        return (data[: self.start] + self.new.encode() + data[self.end :]).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one test came to: outcome, digest of what it saw, how many plain values were among that, why it failed.

    `calls` are "file:line" of the functions it called, `seen` (place, value in canonical form, value as shown), `given`
    its arguments as shown; all three only where asked for. `cpu_s` is 0 where a language's runner does not tell.
    """

    outcome: str
    digest: str
    values: int = 0
    message: str = ""
    calls: tuple[str, ...] = ()
    seen: tuple[tuple[int, str, str], ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of running tests: results by test, why files could not be collected, places that stay open."""

    results: Mapping[str, Result]
    errors: Mapping[str, str] = field(default_factory=dict)
    open_places: tuple[int, ...] = ()
    ended: bool = True
    wall_s: float = 0.0
    cpu_s: float = 0.0  # of the whole process, collection included


class Language(Protocol):
    """Projects of one programming language and its usual test runner."""

    name: str

    def discover(self, tree: Path) -> Project | None:
        """Return what the files say, None where they are no project of this language with tests."""
        ...

    def locks(self, project: Project) -> Generator[Lock, Run, None]:
        """Yield environments to try, the likeliest first; `send` the run that one came to. Raises `UserError`."""
        ...

    def command(self) -> tuple[Sequence[str], str]:
        """Return what runs tests (see `run_pytest`): an argv in which "@runner" stands for a program, and its text."""
        ...

    def seal(self, text: str, first: int, *, open_places: Collection[int]) -> tuple[str, list[Place]]:
        """Return a test file without what it expects (see `palmette.envs.swe.real.seal`). Raises `SyntaxError`."""
        ...

    def mutations(self, path: str, text: str, rng: random.Random) -> list[Mutation]:
        """Return all small changes of a source file that might be bugs, in random order. Raises `SyntaxError`."""
        ...

    def without(self, text: str, tests: Collection[str]) -> str:
        """Return a test file without some of its tests (ids without the file). Raises `SyntaxError`."""
        ...


# What a run of tests finds in its environment besides PATH: the same while measuring and while judging.
VARIABLES = (
    "HOME=/tmp",
    "LANG=C.UTF-8",
    "TZ=UTC",
    "PYTHONDONTWRITEBYTECODE=1",
    "PYTHONHASHSEED=0",
    "GIT_CONFIG_NOSYSTEM=1",
    "GIT_CONFIG_GLOBAL=/dev/null",
)


def wanted(
    project: Project,
    lock: Lock,
    site: Sequence[str],
    *,
    files: Sequence[str] | None = None,
    only: Collection[str] | None = None,
    trace: bool = False,
    values: bool = False,
) -> dict[str, Any]:
    """Return what the program of `Language.command` is to be given."""
    return {
        "path": [*project.roots, *site],
        "files": list(project.tests if files is None else files),
        "only": None if only is None else sorted(only),
        "options": list(lock.options),
        "trace": trace,
        "values": values,
    }
