"""Tasks to write a program that is judged on hidden inputs, within time: in Python, C or C++."""

from __future__ import annotations

import random

from palmette.envs.api import Draft, Split, Step
from palmette.envs.checks import Check, judged, runs
from palmette.envs.general.problems import arrays, counting, graphs, texts
from palmette.envs.general.problems.kind import Kind, Parameters
from palmette.envs.words import word

KINDS: tuple[Kind, ...] = (*arrays.KINDS, *graphs.KINDS, *texts.KINDS, *counting.KINDS)
HELDOUT = ("brackets", "segment", "circle", "bag", "medians", "digits", "removals", "parts")
TIERS = (2, 3, 4, 5, 6)
_SMALL, _LARGE = 8, 2  # hidden inputs
_LIMIT_S = 4.0
_MAKE = "if [ -e {n}.c ]; then cc -O2 -o {n}.bin {n}.c -lm; elif [ -e {n}.cpp ]; then c++ -O2 -o {n}.bin {n}.cpp; fi"
_RUN = "if [ -e {n}.py ]; then exec python3 {n}.py; else exec ./{n}.bin; fi"


def draft(rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
    """Return a task of a kind of that tier (of `TIERS`) and split."""
    kind = rng.choice([kind for kind in KINDS if kind.tier == tier and (kind.name in HELDOUT) == (split == "heldout")])
    parameters = kind.parameters(rng)
    program = word(rng, split)
    sample = _input(kind, parameters, rng, kind.small // 2)
    hidden = [_input(kind, parameters, rng, rng.randint(2, kind.small)) for _ in range(_SMALL)]
    hidden += [_input(kind, parameters, rng, kind.large) for _ in range(_LARGE)]
    for given in (sample, *hidden[:_SMALL]):
        assert str(kind.solve(given, parameters)) == str(kind.brute(given, parameters)), f"{kind.name}: {given!r}"
    source = kind.source(parameters)
    command = f"cat > {program}.py <<'END'\n{source}END"
    return Draft(
        name=name,
        domain="general",
        instruction=_statement(kind, parameters, program, sample),
        files={
            f"{program}-sample/input.txt": sample,
            f"{program}-sample/output.txt": _output(kind, parameters, sample),
        },
        test_files=judged(
            [("compiles", [_compiles(program)]), ("answers", _checks(kind, parameters, program, hidden))]
        ),
        steps=(
            Step(tool="bash", arguments={"command": command}, observation="(no output)"),
            Step(tool="submit", arguments={}, observation="submitted"),
        ),
        tier=tier,
        split=split,
        skills=("code", kind.name),
        template=f"general/code/{kind.name}",
        agent_timeout_s=600.0,
    )


def _statement(kind: Kind, parameters: Parameters, program: str, sample: str) -> str:
    return (
        f"{kind.statement.format(**parameters)}\n\nInput: {kind.given.format(**parameters)}\nOutput: "
        f"{kind.wanted.format(**parameters)}.\n\nExample input:\n{sample}Example output:\n"
        f"{_output(kind, parameters, sample)}\nWrite the program {program}.py (Python 3, standard library), "
        f"{program}.c or {program}.cpp in /app. It reads standard input and writes standard output, and is "
        f"tested on hidden inputs up to the limits named above, in {_LIMIT_S:g} seconds and 384 MB each. The "
        f"example is in {program}-sample/."
    )


def _input(kind: Kind, parameters: Parameters, rng: random.Random, size: int) -> str:
    return kind.make(rng, parameters, max(size, 2))


def _output(kind: Kind, parameters: Parameters, given: str) -> str:
    return f"{kind.solve(given, parameters)}\n"


def _compiles(program: str) -> Check:
    return runs("sh", "-c", _MAKE.format(n=program), timeout_s=20.0)


def _checks(kind: Kind, parameters: Parameters, program: str, hidden: list[str]) -> list[Check]:
    argv = ("sh", "-c", _RUN.format(n=program))
    return [runs(*argv, prints=_output(kind, parameters, given), stdin=given, timeout_s=_LIMIT_S) for given in hidden]
