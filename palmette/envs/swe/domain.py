"""Builds SWE tasks: a package of small functions, one or two of them broken, and the issue a user would write.

Tier 1 names the file, tier 2 leaves it to be found among several modules, tier 3 breaks two functions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from palmette.envs.api import Draft, Split, Step
from palmette.envs.checks import Check, judged
from palmette.envs.swe.functions import FUNCTIONS, Function
from palmette.envs.words import word

_PARAMETERS = tuple("abcdefghjkmnpqrstuvwxyz")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """A function in a module with its parameter names chosen; `bug` is (right line, wrong line) or None."""

    function: Function
    params: tuple[str, ...]
    bug: tuple[str, str] | None

    def source(self, *, fixed: bool) -> str:
        lines = [self.fill(line) for line in self.function.body]
        if self.bug and not fixed:
            lines[lines.index(self.bug[0])] = self.bug[1]
        return "\n".join(
            [f"def {self.function.name}({', '.join(self.params)}):", *("    " + line for line in lines), ""]
        )

    def fill(self, line: str) -> str:
        return line.format(**dict(zip("abc", self.params, strict=False)))

    def call(self, case: tuple[object, ...], *, fixed: bool) -> object:
        scope: dict[str, object] = {}
        exec(self.source(fixed=fixed), scope)  # our own template, not a model's code
        try:
            return scope[self.function.name](*case)  # type: ignore[operator]
        except Exception as error:
            return error


class Swe:
    """Repositories with one bug in a named file, one in an unnamed file, or two bugs."""

    name = "swe"
    tiers: tuple[int, ...] = (1, 2, 3)

    def draft(self, rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
        """Return a task; package, module and parameter names belong to `split`, function names to both."""
        num_bugs, num_modules = (2 if tier == 3 else 1), (1 if tier == 1 else 2)
        taken: set[str] = set()
        package = word(rng, split, taken=taken)
        modules = _modules(rng, split, [word(rng, split, taken=taken) for _ in range(num_modules)], num_bugs)
        broken = [(module, p) for module, placed in modules.items() for p in placed if p.bug]
        files = {f"{package}/__init__.py": ""}
        for module, placed in modules.items():
            files[f"{package}/{module}.py"] = _text(placed)
            files[f"tests/test_{module}.py"] = _test_module(package, module, [p for p in placed if not p.bug])
        return Draft(
            name=name,
            domain=self.name,
            instruction=_issue(package, broken, name_file=tier == 1),
            files=files,
            test_files=judged(_goals(package, modules)),
            steps=_steps(package, modules, search=tier > 1),
            tier=tier,
            split=split,
            skills=tuple(p.function.name for _, p in broken),
            git=True,
        )


def _modules(rng: random.Random, split: Split, names: list[str], num_bugs: int) -> dict[str, list[_Placed]]:
    """Place two functions in each module, `num_bugs` of them broken, so that every edit is unambiguous."""
    while True:
        functions = rng.sample(FUNCTIONS, 2 * len(names))
        placed = [_place(rng, split, f, broken=i < num_bugs) for i, f in enumerate(functions)]
        rng.shuffle(placed)
        modules = {name: placed[2 * i : 2 * i + 2] for i, name in enumerate(names)}
        if all(_unambiguous(group) for group in modules.values()):
            return modules


def _place(rng: random.Random, split: Split, function: Function, *, broken: bool) -> _Placed:
    params = tuple(rng.sample(_PARAMETERS, function.params))
    placed = _Placed(function=function, params=params, bug=None)
    if not broken:
        return placed
    right, wrong = rng.choice(function.bugs)
    return _Placed(function=function, params=params, bug=(placed.fill(right), placed.fill(wrong)))


def _unambiguous(group: list[_Placed]) -> bool:
    """Say whether the wrong line of every bug occurs once, whatever has been fixed before it."""
    for p in (p for p in group if p.bug):
        others = [q.source(fixed=fixed) for q in group if q is not p for fixed in (False, True)]
        wrong = p.bug[1].strip() if p.bug else ""
        if p.source(fixed=False).count(wrong) != 1 or any(wrong in text for text in others):
            return False
    return True


def _failing_case(p: _Placed) -> tuple[tuple[object, ...], object, object]:
    """Return the first case whose broken result differs, with what it returns and what it should."""
    for case in p.function.cases:
        got, want = p.call(case, fixed=False), p.call(case, fixed=True)
        if repr(got) != repr(want):
            return case, got, want
    raise AssertionError(f"no case shows the bug of {p.function.name}: {p.bug}")


def _issue(package: str, broken: list[tuple[str, _Placed]], *, name_file: bool) -> str:
    sentences = []
    for module, p in broken:
        case, got, want = _failing_case(p)
        result = f"fails with {type(got).__name__}" if isinstance(got, Exception) else f"returns {got!r}"
        place = f" in {package}/{module}.py" if name_file else ""
        sentences.append(f"{p.function.name}({', '.join(map(repr, case))}){place} {result}, expected {want!r}.")
    return "Fix the bug: " + " ".join(sentences)


def _steps(package: str, modules: dict[str, list[_Placed]], *, search: bool) -> tuple[Step, ...]:
    """Return for every bug: find the file, read it, edit it."""
    steps: list[Step] = []
    for module, placed in modules.items():
        path, text = f"{package}/{module}.py", _text(placed)
        for p in placed:
            if not p.bug:
                continue
            if search:
                command = f"grep -rl 'def {p.function.name}(' *"
                steps.append(Step(tool="bash", arguments={"command": command}, observation=path))
            steps.append(Step(tool="bash", arguments={"command": f"cat {path}"}, observation=text.strip()))
            right, wrong = p.bug[0].strip(), p.bug[1].strip()
            steps.append(Step(tool="edit", arguments={"path": path, "old": wrong, "new": right}, observation="ok"))
            text = text.replace(wrong, right)
    return (*steps, Step(tool="submit", arguments={}, observation="submitted"))


def _text(placed: list[_Placed]) -> str:
    return "\n".join(p.source(fixed=False) for p in placed)


def _test_module(package: str, module: str, placed: list[_Placed]) -> str:
    lines = [f"from {package} import {module}", ""]
    for p in placed:
        lines += ["", f"def test_{p.function.name}():"]
        for case in p.function.cases:
            want = p.call(case, fixed=True)
            lines.append(f"    assert {module}.{p.function.name}({', '.join(map(repr, case))}) == {want!r}")
        lines.append("")
    return "\n".join(lines)


def _goals(package: str, modules: dict[str, list[_Placed]]) -> list[tuple[str, list[Check]]]:
    """Return a goal a function: what must turn from failing to passing, and what must keep passing."""
    goals: list[tuple[str, list[Check]]] = []
    for module, placed in modules.items():
        for p in placed:
            kind = "fail_to_pass" if p.bug else "pass_to_pass"
            cases = [[repr(case), repr(p.call(case, fixed=True))] for case in p.function.cases]
            call: Check = {
                "kind": "calls",
                "module": f"{package}.{module}",
                "function": p.function.name,
                "cases": cases,
            }
            goals.append((f"{kind} test_{module}::test_{p.function.name}", [call]))
    return goals
