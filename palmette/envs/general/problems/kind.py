"""A kind of programming problem: a statement with parameters, inputs, a solution, and a slow one plainly right."""

from __future__ import annotations

import inspect
import random
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Parameters = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a problem of this kind is; `statement` and `given` have the parameters in braces.

    `solve` and `brute` get the whole input and the parameters and return the output. They import what they need
    themselves: the source of `solve` is the reference. `make` returns an input of about `size`, of which `small` is for
    `brute`, and `large` makes it too slow.
    """

    name: str
    tier: int
    statement: str
    given: str
    wanted: str
    parameters: Callable[[random.Random], dict[str, int]]
    make: Callable[[random.Random, Parameters, int], str]
    solve: Callable[[str, Parameters], object]
    brute: Callable[[str, Parameters], object]
    small: int
    large: int

    def source(self, parameters: Parameters) -> str:
        """Return the reference as a program that reads its standard input."""
        code = textwrap.dedent(inspect.getsource(self.solve))
        code = code.replace(f"def {self.solve.__name__}(text: str, p: Parameters)", "def solve(text, p)")
        head, _, body = code.partition(":\n")
        body = body.split('"""', 2)[2] if body.lstrip().startswith('"""') else body
        head, body = head.split(" ->")[0], body.strip("\n")
        return f"import sys\n\n\n{head}:\n{body}\n\n\nprint(solve(sys.stdin.read(), {dict(parameters)}))\n"


def numbers(text: str) -> list[int]:
    """Return all numbers of an input."""
    return list(map(int, text.split()))


def listed(values: object) -> str:
    """Return numbers on a line."""
    return " ".join(map(str, values))  # type: ignore[call-overload]


def between(name: str, low: int, high: int) -> Callable[[random.Random], dict[str, int]]:
    """Return what draws one parameter from low to high."""
    return lambda rng: {name: rng.randint(low, high)}


def array(low: int, high: int) -> Callable[[random.Random, Parameters, int], str]:
    """Return what makes n, and n numbers from low to high."""

    def make(rng: random.Random, p: Parameters, size: int) -> str:
        n = max(size - rng.randint(0, size // 5), 1)
        return f"{n}\n{listed(rng.randint(low, high) for _ in range(n))}\n"

    return make
