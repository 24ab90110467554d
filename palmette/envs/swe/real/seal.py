"""Seals tests: what they expect is taken out, what they look at is shown to whoever judges instead.

``assert f(x) == 5`` becomes ``__seen__(17, f(x))``: the process that runs the code under test no longer knows the 5,
and a judge outside of it compares. Where the other side is no literal the assertion stays and its subject is shown
beside it; where only truth is asked for, whether it holds is shown. Asserts of `unittest` are treated alike.
"""

from __future__ import annotations

import ast
import builtins
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from palmette.envs.swe.real.span import Spans

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_EQUAL = {"assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertTupleEqual", "assertSetEqual"}
_EQUAL |= {"assertSequenceEqual", "assertMultiLineEqual", "assertIs"}
_TRUTH = {"assertTrue": "{0}", "assertFalse": "{0}", "assertIsNone": "({0}) is None", "assertIn": "({0}) in ({1})"}
_TRUTH |= {
    "assertIsNotNone": "({0}) is None",
    "assertNotIn": "({0}) in ({1})",
    "assertIsInstance": "isinstance({0}, {1})",
}
_TRUTH |= {"assertGreater": "({0}) > ({1})", "assertLess": "({0}) < ({1})", "assertNotEqual": "({0}) == ({1})"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An assertion: its number, and the text of what it looks at.

    `before` is what its test does up to there, with the imports it needs and without other assertions; None where it
    stands in a loop or a branch. `free` are the names in both that stand for something else: arguments of the test, and
    what its file defines.
    """

    number: int
    line: int
    subject: str
    before: str | None
    free: tuple[str, ...] = ()


def sealed(text: str, first: int = 0, *, open_places: Collection[int] = ()) -> tuple[str, list[Place]]:
    """Return a test module with its assertions sealed, numbered from `first`, and what they are.

    Assertions at `open_places` stay as they are. Lines keep their numbers. Raises `SyntaxError`.
    """
    tree = ast.parse(text)
    source = Spans(text)
    places: list[Place] = []
    changes: list[tuple[int, int, str]] = []
    functions, imports = dict(_statements(tree)), _imports(tree, source)
    for node in sorted(functions, key=lambda each: (each.lineno, each.col_offset)):
        number = first + len(places)
        found = _assertion(node, source, number)
        if found is None:
            continue
        subject, change = found
        before, free = _before(functions[node], node, subject, source, imports)
        places.append(Place(number=number, line=node.lineno, subject=subject, before=before, free=free))
        if number not in open_places:
            changes.append(change)
    data = source.data
    for start, end, new in sorted(changes, reverse=True):
        lost = data[start:end].count(b"\n") - new.count("\n")
        data = data[:start] + new.encode() + data[end:]
        if lost > 0:  # what stood on several lines does so still
            data = _padded(data, start + len(new.encode()), lost)
    return data.decode(), places


def _padded(data: bytes, at: int, lines: int) -> bytes:
    """Put empty lines behind the end of the line that `at` is on."""
    end = data.find(b"\n", at)
    end = len(data) if end < 0 else end
    return data[:end] + b"\n" * lines + data[end:]


def _statements(tree: ast.AST) -> Iterator[tuple[ast.stmt, _Function]]:
    """Yield statements that may assert something, with the innermost function they are in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = [each for each in ast.walk(node) if each is not node and isinstance(each, _Function)]
            apart = {below for each in inside for below in ast.walk(each)}
            for each in ast.walk(node):
                if each not in apart and _may_assert(each):
                    yield each, node


def _may_assert(node: ast.AST) -> TypeGuard[ast.Assert | ast.Expr]:
    return isinstance(node, ast.Assert) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))


def _imports(tree: ast.Module, source: Spans) -> dict[str, str]:
    """Return the import that binds each name in a module."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {(each.asname or each.name).partition(".")[0]: source.of(node) for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for each in node.names:
                bound = f" as {each.asname}" if each.asname else ""
                found[each.asname or each.name] = f"from {node.module} import {each.name}{bound}"
    return found


def _before(
    function: _Function, node: ast.stmt, subject: str, source: Spans, imports: dict[str, str]
) -> tuple[str | None, tuple[str, ...]]:
    """Return what a test does before an assertion that is one of its own statements, and names from elsewhere."""
    if node not in function.body:
        return None, ()
    steps = [each for each in function.body[: function.body.index(node)] if not _asserts(each)]
    looked: list[ast.AST] = [*ast.parse(f"({subject})").body]
    for each in reversed(steps.copy()):
        if isinstance(each, ast.Assign) and not _names(each, ast.Store) & _loaded(looked):
            steps.remove(each)  # it only says what is expected
        else:
            looked.insert(0, each)
    lines = [line for each in steps for line in _flush(each, source).splitlines()]
    bound = {name for step in looked for name in _names(step, ast.Store)}
    bound |= {each.arg for step in looked for each in ast.walk(step) if isinstance(each, ast.arg)}
    bound |= {each.name for each in steps if isinstance(each, ast.FunctionDef | ast.ClassDef)}
    used = _loaded(looked) - bound - set(dir(builtins))
    needed = sorted({imports[name] for name in used if name in imports})
    text = "\n".join([*needed, *lines])
    return text, tuple(sorted(used - imports.keys()))


def _flush(step: ast.stmt, source: Spans) -> str:
    """Return a statement at the beginning of its line; texts of several lines in it stay as they are."""
    deep = any(
        isinstance(each, ast.JoinedStr) or (isinstance(each, ast.Constant) and isinstance(each.value, str | bytes))
        for each in ast.walk(step)
        if getattr(each, "lineno", 0) != getattr(each, "end_lineno", 0)
    )
    if not deep:
        flush = textwrap.dedent(" " * step.col_offset + source.of(step))
        return "\n".join(line for line in flush.splitlines() if line.strip())
    return ast.unparse(step) if isinstance(step, ast.With | ast.For | ast.If | ast.Try | ast.While) else source.of(step)


def _loaded(nodes: list[ast.AST]) -> set[str]:
    return {name for node in nodes for name in _names(node, ast.Load)}


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, context)}


def _asserts(node: ast.stmt) -> bool:
    called = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    named = isinstance(called, ast.Attribute) and called.attr.startswith("assert")
    if isinstance(node, ast.With):
        called = node.items[0].context_expr
        called = called.func if isinstance(called, ast.Call) else None
        named = isinstance(called, ast.Attribute) and called.attr in ("raises", "assertRaises", "assertRaisesRegex")
    documents = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Assert) or named or documents


def _assertion(node: ast.stmt, source: Spans, number: int) -> tuple[str, tuple[int, int, str]] | None:
    """Return what a statement looks at and how it is changed, None if it asserts nothing that can be sealed."""
    start, end = source.span(node)
    if isinstance(node, ast.Assert):
        return _plain(node.test, source, number, start, end)
    assert isinstance(node, ast.Expr)
    call = node.value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.keywords:
        return None
    name, arguments = call.func.attr, call.args
    if not isinstance(call.func.value, ast.Name) or any(isinstance(each, ast.Starred) for each in arguments):
        return None
    if name in _EQUAL and len(arguments) >= 2:
        return _equal(arguments[0], arguments[1], source, number, start, end)
    if name in _TRUTH and arguments:
        texts = [source.of(each) for each in arguments]
        wanted = _TRUTH[name]
        if "{1}" in wanted and len(texts) < 2:
            return None
        bare = [text if _simple(each) else f"({text})" for text, each in zip(texts, arguments, strict=True)]
        shown = wanted.replace("({0})", "{0}").replace("({1})", "{1}").format(*bare)
        return shown, (start, end, f"__holds__({number}, {wanted.format(*texts)})")
    return None


def _plain(test: ast.expr, source: Spans, number: int, start: int, end: int) -> tuple[str, tuple[int, int, str]] | None:
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is):
        return _equal(test.left, test.comparators[0], source, number, start, end)
    if any(isinstance(each, ast.NamedExpr) for each in ast.walk(test)):
        return None
    text = source.of(test)
    return text, (start, end, f"__holds__({number}, ({text}))")


def _equal(
    left: ast.expr, right: ast.expr, source: Spans, number: int, start: int, end: int
) -> tuple[str, tuple[int, int, str]] | None:
    if _literal(left) and not _literal(right):
        left, right = right, left
    if any(isinstance(each, ast.NamedExpr | ast.Yield) for each in ast.walk(left)):
        return None
    text = source.of(left)
    if _literal(right):
        return text, (start, end, f"__seen__({number}, ({text}))")
    if any(isinstance(each, ast.Call | ast.Await) for each in ast.walk(right)):
        return None
    at, stop = source.span(left)
    return text, (at, stop, f"__seen__({number}, ({text}))")


def _simple(node: ast.expr) -> bool:
    """Say whether an expression needs no brackets beside an operator."""
    return isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Constant | ast.Subscript | ast.List | ast.Dict)


def _literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True
