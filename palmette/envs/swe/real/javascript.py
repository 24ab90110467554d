"""JavaScript, with node's own test runner, or tests in the manner of mocha."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Generator, Iterator, Sequence
from functools import cache
from pathlib import Path

from palmette.envs import npm
from palmette.envs.locked import Lock
from palmette.envs.swe.real.discover_javascript import discover_javascript, package_of
from palmette.envs.swe.real.project import Mutation, Project, Run
from palmette.envs.swe.real.seal import Place
from palmette.envs.swe.real.syntax import ask
from palmette.envs.toolchain import own_python

_ROUNDS = 4


class JavaScript:
    """Projects with a package.json whose tests need nothing but node, and what is installed from npm."""

    name = "javascript"

    def discover(self, tree: Path) -> Project | None:
        """Return what the files say, None where there is no package.json, or no tests that node runs."""
        return discover_javascript(tree)

    def locks(self, project: Project) -> Generator[Lock, Run, None]:
        """Yield environments to try: what it names and imports, then what its tests miss. Raises `UserError`."""
        wanted = dict(_pair(each) for each in (*project.needed, *project.wished))
        for _ in range(_ROUNDS):
            packages, lock = npm.resolve(tuple(sorted(wanted.items())))
            run = yield Lock(python=own_python(), packages=packages, node=npm.node().version, npm=lock)
            missing = [name for name in _missing(run) if name not in wanted]
            if not missing:
                return
            wanted |= dict.fromkeys(missing, "*")

    def command(self) -> tuple[Sequence[str], str]:
        """Return an argv in which "@runner" stands for the text of a program, and that text."""
        return ("node", "-e", "@runner"), _runner()

    def seal(self, text: str, first: int, *, open_places: Collection[int]) -> tuple[str, list[Place]]:
        """Return a test file without what it expects. Raises `SyntaxError`."""
        found = ask("seal", text, json.dumps({"first": first, "open": sorted(open_places)}))
        return found["text"], [Place(**{**each, "free": tuple(each["free"])}) for each in found["places"]]

    def mutations(self, path: str, text: str, rng: random.Random) -> list[Mutation]:
        """Return small changes of a source file, in random order. Raises `SyntaxError`."""
        found = [Mutation(path=path, **each) for each in ask("mutations", text)]
        rng.shuffle(found)
        return found

    def without(self, text: str, tests: Collection[str]) -> str:
        """Return a test file without the tests of these names; those whose name is made when they run go together."""
        return ask("without", text, json.dumps({"tests": sorted(tests)}))


def _pair(text: str) -> tuple[str, str]:
    """Return name and versions of "@scope/name@^1.2"."""
    at = text.index("@", 1)
    return text[:at], text[at + 1 :]


def _missing(run: Run) -> Iterator[str]:
    said = [*run.errors.values(), *(result.message for result in run.results.values() if result.message)]
    for text in said:
        for what in re.findall(r"Cannot find (?:package|module) '([^']+)'", text):
            if name := package_of(what):
                yield name


@cache
def _runner() -> str:
    folder = Path(__file__).parent / "js"
    inside = (folder / "in_node.js").read_text(encoding="utf-8")
    return (folder / "run_node.js").read_text(encoding="utf-8").replace("'@inside'", json.dumps(inside))
