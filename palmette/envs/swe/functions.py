"""Small functions with known ways to be wrong.

`{a}`, `{b}`, `{c}` stand for parameter names drawn anew for every task. A bug replaces the line `bugs[i][0]` by
`bugs[i][1]`. `cases` are argument tuples; what they return is computed from the right body, never written by hand.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function template; `body` and both sides of `bugs` are lines with their indentation below ``def``."""

    name: str
    params: int
    body: tuple[str, ...]
    bugs: tuple[tuple[str, str], ...]
    cases: tuple[tuple[object, ...], ...]


def _one(name: str, params: int, right: str, wrong: tuple[str, ...], cases: tuple[tuple[object, ...], ...]) -> Function:
    """Return a function of a single ``return``."""
    line = f"return {right}"
    return Function(
        name=name, params=params, body=(line,), bugs=tuple((line, f"return {w}") for w in wrong), cases=cases
    )


_PAIRS = ((7, 2), (3, 5), (4, 4))
_TRIPLES = ((5, 1, 9), (0, 2, 6), (12, 3, 8))
_LISTS = (([4, 1, 7],), ([2, 9, 5, 3],))
_TEXTS = (("palm leaf",), ("Vine",))

FUNCTIONS: tuple[Function, ...] = (
    _one("add", 2, "{a} + {b}", ("{a} - {b}", "{a} * {b}"), _PAIRS),
    _one("subtract", 2, "{a} - {b}", ("{a} + {b}", "{b} - {a}"), _PAIRS),
    _one("area", 2, "{a} * {b}", ("{a} + {b}", "{a} - {b}"), _PAIRS),
    _one("border", 2, "2 * ({a} + {b})", ("2 * ({a} - {b})", "2 + ({a} + {b})"), _PAIRS),
    _one("average", 2, "({a} + {b}) / 2", ("({a} - {b}) / 2", "({a} + {b}) / 3"), _PAIRS),
    _one("distance", 2, "abs({a} - {b})", ("abs({a} + {b})", "{a} - {b}"), ((2, 7), (9, 4))),
    _one("remainder", 2, "{a} % {b}", ("{a} // {b}", "{b} % {a}"), _PAIRS),
    _one("quotient", 2, "{a} // {b}", ("{a} % {b}", "{b} // {a}"), _PAIRS),
    _one("power", 2, "{a} ** {b}", ("{a} * {b}", "{b} ** {a}"), _PAIRS),
    _one("larger", 2, "max({a}, {b})", ("min({a}, {b})", "{a}"), ((2, 7), (9, 4))),
    _one("smaller", 2, "min({a}, {b})", ("max({a}, {b})", "{b}"), ((2, 7), (9, 4))),
    _one("double", 1, "{a} * 2", ("{a} * 3", "{a} + 2"), ((5,), (9,))),
    _one("half", 1, "{a} / 2", ("{a} / 3", "{a} * 2"), ((8,), (10,))),
    _one("square", 1, "{a} * {a}", ("{a} + {a}", "{a} - {a}"), ((3,), (5,))),
    _one("negate", 1, "-{a}", ("+{a}", "{a}"), ((3,), (-5,))),
    _one("successor", 1, "{a} + 1", ("{a} - 1", "{a} + 2"), ((3,), (8,))),
    _one("is_even", 1, "{a} % 2 == 0", ("{a} % 2 == 1", "{a} % 3 == 0"), ((4,), (7,), (3,))),
    _one("is_odd", 1, "{a} % 2 == 1", ("{a} % 2 == 0", "{a} % 3 == 1"), ((4,), (7,), (5,))),
    _one("is_positive", 1, "{a} > 0", ("{a} < 0", "{a} >= 0"), ((4,), (-7,), (0,))),
    _one(
        "is_between",
        3,
        "{b} <= {a} <= {c}",
        ("{b} < {a} < {c}", "{b} >= {a} >= {c}"),
        ((5, 5, 9), (1, 2, 6), (8, 3, 8)),
    ),
    _one("clamp", 3, "max({b}, min({a}, {c}))", ("min({b}, max({a}, {c}))", "max({b}, min({a}, {b}))"), _TRIPLES),
    _one("total", 3, "{a} + {b} + {c}", ("{a} + {b} - {c}", "{a} - {b} + {c}"), _TRIPLES),
    _one("volume", 3, "{a} * {b} * {c}", ("{a} * {b} + {c}", "{a} + {b} * {c}"), ((5, 2, 9), (4, 2, 6))),
    _one("first", 1, "{a}[0]", ("{a}[1]", "{a}[-1]"), _LISTS),
    _one("last", 1, "{a}[-1]", ("{a}[0]", "{a}[1]"), _LISTS),
    _one("rest", 1, "{a}[1:]", ("{a}[:1]", "{a}[2:]"), _LISTS),
    _one("length", 1, "len({a})", ("len({a}) - 1", "len({a}) + 1"), _LISTS),
    _one("highest", 1, "max({a})", ("min({a})", "sum({a})"), _LISTS),
    _one("lowest", 1, "min({a})", ("max({a})", "sum({a})"), _LISTS),
    _one("mean", 1, "sum({a}) / len({a})", ("sum({a}) * len({a})", "max({a}) / len({a})"), _LISTS),
    _one("ordered", 1, "sorted({a})", ("list({a})", "sorted({a}, reverse=True)"), _LISTS),
    _one("backwards", 1, "{a}[::-1]", ("{a}[::1]", "{a}[:-1]"), _TEXTS),
    _one("shout", 1, "{a}.upper()", ("{a}.lower()", "{a}.title()"), _TEXTS),
    _one("whisper", 1, "{a}.lower()", ("{a}.upper()", "{a}.title()"), _TEXTS),
    _one("trim", 1, "{a}.strip()", ("{a}.lstrip()", "{a}.rstrip()"), ((" fern ",), ("  ivy ",))),
    _one("word_count", 1, "len({a}.split())", ("len({a})", "len({a}.strip())"), _TEXTS),
    _one("join_words", 2, "{a} + '-' + {b}", ("{a} + {b}", "{b} + '-' + {a}"), (("oak", "elm"), ("ash", "fir"))),
    _one(
        "contains",
        2,
        "{b} in {a}",
        ("{b} not in {a}", "{a} in {b}"),
        (([3, 5], 3), ([4], 9))[:0] or (("palm", "al"), ("palm", "ox")),
    ),
    Function(
        name="sum_to",
        params=1,
        body=("total = 0", "for i in range({a} + 1):", "    total += i", "return total"),
        bugs=(
            ("for i in range({a} + 1):", "for i in range({a}):"),
            ("    total += i", "    total -= i"),
            ("total = 0", "total = 1"),
        ),
        cases=((4,), (6,)),
    ),
    Function(
        name="factorial",
        params=1,
        body=("result = 1", "for i in range(2, {a} + 1):", "    result *= i", "return result"),
        bugs=(
            ("for i in range(2, {a} + 1):", "for i in range(2, {a}):"),
            ("    result *= i", "    result += i"),
            ("result = 1", "result = 0"),
        ),
        cases=((4,), (5,)),
    ),
    Function(
        name="sign",
        params=1,
        body=("if {a} < 0:", "    return -1", "return 1"),
        bugs=(("if {a} < 0:", "if {a} > 0:"), ("    return -1", "    return 0")),
        cases=((-4,), (6,)),
    ),
    Function(
        name="positives",
        params=1,
        body=("found = []", "for item in {a}:", "    if item > 0:", "        found.append(item)", "return found"),
        bugs=(("    if item > 0:", "    if item < 0:"), ("    if item > 0:", "    if item > 1:")),
        cases=(([3, -1, 1],), ([-2, 5, 1],)),
    ),
)
