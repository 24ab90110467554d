"""Small changes of Python functions, each as somebody might get it wrong; all other bytes stay as they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from palmette.envs.swe.real.project import Mutation
from palmette.envs.swe.real.span import Spans

_COMPARE = {ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"}
_BOUNDARY = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
_SIGN = {ast.Eq: "==", ast.NotEq: "!=", ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"}
_SIGN |= {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_ARITHMETIC = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "%")}
_ARITHMETIC |= {ast.Div: ("/", "*"), ast.Mod: ("%", "//"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<")}
_ARITHMETIC |= {ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&")}
_EXCEPTIONS = {"ValueError": "TypeError", "TypeError": "ValueError", "KeyError": "IndexError", "IndexError": "KeyError"}
_EXCEPTIONS |= {"AttributeError": "KeyError", "StopIteration": "ValueError", "RuntimeError": "ValueError"}

_Change = tuple[str, ast.AST, str]  # kind, what is replaced, by what


def mutations(path: str, text: str) -> list[Mutation]:
    """Return every change of every function in a module, whether it compiles or not. Raises `SyntaxError`."""
    spans = Spans(text)
    found: list[Mutation] = []
    for function, name in _functions(ast.parse(text), ""):
        line = min([function.lineno, *(mark.lineno for mark in function.decorator_list)])
        for kind, node, new in _changes(function, spans):
            start, end = spans.span(node)
            if spans.data[start:end].decode() != new:
                found.append(Mutation(kind=kind, path=path, function=name, line=line, start=start, end=end, new=new))
    return found


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield each, prefix + each.name
            yield from _functions(each, f"{prefix}{each.name}.")
        elif isinstance(each, ast.ClassDef):
            yield from _functions(each, f"{prefix}{each.name}.")
        else:
            yield from _functions(each, prefix)


def _changes(function: ast.FunctionDef | ast.AsyncFunctionDef, spans: Spans) -> Iterator[_Change]:
    for default in [*function.args.defaults, *filter(None, function.args.kw_defaults)]:
        yield from ((("default", node, new)) for _, node, new in _constant(default))
    names = [arg.arg for arg in [*function.args.posonlyargs, *function.args.args] if arg.arg not in ("self", "cls")]
    for node in _own(function):
        match node:
            case ast.Compare(ops=[operator]):
                yield from _compare(node, operator, spans)
            case ast.BoolOp():
                word = "or" if isinstance(node.op, ast.And) else "and"
                yield "boolean", node, f" {word} ".join(spans.of(value) for value in node.values)
            case ast.UnaryOp(op=ast.Not()):
                yield "boolean", node, spans.of(node.operand)
            case ast.BinOp() if type(node.op) in _ARITHMETIC and not _text(node):
                _, other = _ARITHMETIC[type(node.op)]
                yield "arithmetic", node, f"{spans.of(node.left)} {other} {spans.of(node.right)}"
            case ast.AugAssign() if type(node.op) in _ARITHMETIC:
                _, other = _ARITHMETIC[type(node.op)]
                yield "arithmetic", node, f"{spans.of(node.target)} {other}= {spans.of(node.value)}"
            case ast.Constant():
                yield from _constant(node)
            case ast.Name(ctx=ast.Load()) if node.id in names and len(names) > 1:
                yield "variable", node, names[(names.index(node.id) + 1) % len(names)]
            case ast.Await():
                yield "await", node, spans.of(node.value)
            case ast.Call(args=[first, second, *_]) if not isinstance(first, ast.Starred):
                if not isinstance(second, ast.Starred):
                    start, end = spans.span(node)
                    (a, b), (c, d) = spans.span(first), spans.span(second)
                    data = spans.data
                    swapped = data[start:a] + data[c:d] + data[b:c] + data[a:b] + data[d:end]
                    yield "arguments", node, swapped.decode()
            case ast.Subscript(slice=ast.Slice() as cut):
                yield from _slice(cut, spans)
            case ast.If():
                yield from _branch(node, spans)
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                yield "return", node, spans.of(value)
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name) as named)) if name in _EXCEPTIONS:
                yield "exception", named, _EXCEPTIONS[name]
            case ast.ExceptHandler(type=ast.Name(id=name) as named) if name in _EXCEPTIONS:
                yield "exception", named, _EXCEPTIONS[name]


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """Yield what belongs to a function's body and to no function inside of it; no texts that only document."""
    body = list(getattr(function, "body", []))
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    waiting: list[ast.AST] = body
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.JoinedStr):
            continue  # positions inside f-strings are not to be relied on
        yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns"):
                continue
            waiting += [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, ast.AST)]


def _compare(node: ast.Compare, operator: ast.cmpop, spans: Spans) -> Iterator[_Change]:
    left, right = spans.of(node.left), spans.of(node.comparators[0])
    if type(operator) in _BOUNDARY:
        yield "boundary", node, f"{left} {_BOUNDARY[type(operator)]} {right}"
        turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}[_SIGN[type(operator)]]
        yield "comparison", node, f"{left} {turned} {right}"
    else:
        yield "comparison", node, f"{left} {_COMPARE[type(operator)]} {right}"


def _constant(node: ast.AST) -> Iterator[_Change]:
    if not isinstance(node, ast.Constant):
        return
    if isinstance(node.value, bool):
        yield "constant", node, str(not node.value)
    elif isinstance(node.value, int):
        yield "constant", node, str(node.value + 1)
        if node.value > 0:
            yield "constant", node, str(node.value - 1)


def _slice(cut: ast.Slice, spans: Spans) -> Iterator[_Change]:
    low = spans.of(cut.lower) if cut.lower else ""
    high = spans.of(cut.upper) if cut.upper else ""
    step = f":{spans.of(cut.step)}" if cut.step else ""
    if high:
        yield "slice", cut, f"{low}:{high} - 1{step}"
        yield "slice", cut, f"{low}:{step}"
    if low:
        yield "slice", cut, f"{low} + 1:{high}{step}"


def _branch(node: ast.If, spans: Spans) -> Iterator[_Change]:
    """A guard that is gone, or an ``else`` that is."""
    leaves = isinstance(node.body[-1], ast.Raise | ast.Return | ast.Continue | ast.Break)
    first = spans.span(node.body[0])[0]
    multi = spans.data[:first].rpartition(b"\n")[2].strip() == b""
    if leaves and not node.orelse and multi:
        yield "guard", node, "pass"
    elif node.orelse and not isinstance(node.orelse[0], ast.If) and multi:
        start, end = spans.span(node)[0], spans.span(node.body[-1])[1]
        yield "branch", node, spans.data[start:end].decode()


def _text(node: ast.BinOp) -> bool:
    """Say whether an operation is on texts, for which another operator only fails."""
    return any(
        isinstance(each, ast.JoinedStr) or (isinstance(each, ast.Constant) and isinstance(each.value, str | bytes))
        for each in (node.left, node.right)
    )
