"""Writes the few lines with which somebody who has not the tests sees what a test saw."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from palmette.envs.swe.real.seal import Place
from palmette.envs.swe.real.span import Spans

_INLINE = 60  # characters of an argument that is written where it is used


def reproduction(place: Place, given: Mapping[str, str]) -> tuple[str, str]:
    """Return (what is done first, the expression that is looked at); `given` are the arguments of the test, as shown.

    In a language that Python cannot read, both are as they stand in the test.
    """
    before, subject = place.before or "", place.subject
    looked = f"({subject})"  # it may be of several lines
    try:
        once = {name: text for name, text in given.items() if len(text) <= _INLINE and not _uses(before, name)}
        subject = _inlined(subject, {name: text for name, text in once.items() if _uses(looked, name) == 1})
        looked = f"({subject})"
        lines = [f"{name} = {given[name]}" for name in place.free if _uses(before, name) or _uses(looked, name)]
        before = _behind_imports(before, lines)
        return _unnamed(before, subject)
    except SyntaxError:
        lines = [f"{name} = {given[name]}" for name in place.free]
        return "\n".join([*lines, *filter(None, [before])]), subject


def plain(shown: str) -> bool:
    """Say whether what was shown of a value is that value when it is read again."""
    try:
        ast.literal_eval(shown)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _uses(text: str, name: str) -> int:
    return sum(isinstance(each, ast.Name) and each.id == name for each in ast.walk(ast.parse(text)))


def _inlined(subject: str, values: Mapping[str, str]) -> str:
    """Return an expression with values in the place of names; ``*name`` becomes the values in a list or tuple."""
    source = Spans(f"({subject})")
    changes: list[tuple[int, int, str]] = []
    for node in ast.walk(ast.parse(f"({subject})")):
        inner = node.value if isinstance(node, ast.Starred) else node
        if not isinstance(inner, ast.Name) or inner.id not in values:
            continue
        text = values[inner.id]
        if inner is node:
            changes.append((*source.span(node), text))
        elif text[:1] in ("[", "("):
            changes.append((*source.span(node), text[1:-1].rstrip(", ")))
    data, taken = source.data, len(source.data)
    for start, end, new in sorted(changes, key=lambda each: (-each[1], each[0])):
        if end <= taken:  # not the name inside of a star that is gone already
            data, taken = data[:start] + new.encode() + data[end:], start
    return data.decode()[1:-1]


def _behind_imports(before: str, lines: list[str]) -> str:
    """Return the steps with lines put behind the imports at their top."""
    steps = before.split("\n") if before else []
    first = next((n for n, line in enumerate(steps) if not line.startswith(("import ", "from "))), len(steps))
    return "\n".join([*steps[:first], *lines, *steps[first:]])


def _unnamed(before: str, subject: str) -> tuple[str, str]:
    """Return both without the name that the last step gives to what is then looked at."""
    steps = ast.parse(before).body
    match steps[-1] if steps else None:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == subject.strip():
            source = Spans(before)
            start, _ = source.span(steps[-1])
            return source.data[:start].decode().rstrip(), source.of(value)
    return before, subject
