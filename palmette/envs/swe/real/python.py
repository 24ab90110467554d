"""Python, with pytest."""

from __future__ import annotations

import ast
import random
from collections.abc import Collection, Generator, Sequence
from functools import cache
from pathlib import Path

from palmette.envs.locked import Lock
from palmette.envs.swe.real.discover_python import discover_python
from palmette.envs.swe.real.mutate import mutations
from palmette.envs.swe.real.project import Mutation, Project, Run
from palmette.envs.swe.real.repair import attempts
from palmette.envs.swe.real.seal import Place, sealed


class Python:
    """Python projects whose tests pytest runs."""

    name = "python"

    def discover(self, tree: Path) -> Project | None:
        """Return what the files say, None where there are no Python modules or tests."""
        return discover_python(tree)

    def locks(self, project: Project) -> Generator[Lock, Run, None]:
        """Yield environments to try. Raises `UserError` where none can be installed."""
        return attempts(project)

    def command(self) -> tuple[Sequence[str], str]:
        """Return an argv in which "@runner" stands for the text of a program, and that text."""
        return ("python3", "-s", "-S", "-B", "-c", "@runner"), _runner()

    def seal(self, text: str, first: int, *, open_places: Collection[int]) -> tuple[str, list[Place]]:
        """Return a test file without what it expects. Raises `SyntaxError`."""
        return sealed(text, first, open_places=open_places)

    def mutations(self, path: str, text: str, rng: random.Random) -> list[Mutation]:
        """Return small changes of a source file, in random order. Raises `SyntaxError`."""
        found = mutations(path, text)
        rng.shuffle(found)
        return found

    def without(self, text: str, tests: Collection[str]) -> str:
        """Return a test file without the tests of these ids ("Class::test_x[1]" stands for all of test_x)."""
        wanted = {test.partition("[")[0] for test in tests}
        lines = text.splitlines(keepends=True)
        for first, last, indent in sorted(_spans(ast.parse(text), "", wanted), reverse=True):
            lines[first - 1 : last] = [indent] if indent else []
        return "".join(lines)


def _spans(node: ast.Module | ast.ClassDef, prefix: str, wanted: set[str]) -> list[tuple[int, int, str]]:
    """Return (first line, last line, what stands there instead) of tests."""
    found: list[tuple[int, int, str]] = []
    gone = 0
    for each in node.body:
        if isinstance(each, ast.ClassDef):
            found += _spans(each, f"{prefix}{each.name}::", wanted)
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and prefix + each.name in wanted:
            first = min([each.lineno, *(mark.lineno for mark in each.decorator_list)])
            found.append((first, each.end_lineno or each.lineno, ""))
            gone += 1
    if gone and gone == len(node.body) and isinstance(node, ast.ClassDef):
        first, last, _ = found[-1]
        found[-1] = (first, last, " " * (node.col_offset + 4) + "pass\n")
    return found


@cache
def _runner() -> str:
    return (Path(__file__).parent / "run_pytest.py").read_text(encoding="utf-8")
