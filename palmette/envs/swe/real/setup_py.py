"""Reads what a setup.py asks for without running it: lists of texts under the names that everybody uses."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

_NEEDED = {"install_requires", "requires", "requirements", "INSTALL_REQUIRES", "REQUIREMENTS", "REQUIRES"}
_WISHED = {"tests_require", "test_requirements", "test_requires", "TESTS_REQUIRE", "tests_requires"}
_EXTRAS = {"extras_require", "EXTRAS_REQUIRE", "extras"}


def asked_for(text: str, extras: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the requirements of a setup.py, and those of its tests; `extras` are the extras that tests need."""
    needed, wished = list[str](), list[str]()
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return needed, wished
    for name, value in _given(tree):
        if name in _NEEDED:
            needed += _texts(value)
        elif name in _WISHED:
            wished += _texts(value)
        elif name in _EXTRAS and isinstance(value, ast.Dict):
            for key, each in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in extras:
                    wished += _texts(each)
    return needed, wished


def _given(tree: ast.Module) -> list[tuple[str, ast.expr]]:
    found: list[tuple[str, ast.expr]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg:
            found.append((node.arg, node.value))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.append((node.targets[0].id, node.value))
    return found


def _texts(value: ast.expr) -> list[str]:
    listed = value.elts if isinstance(value, ast.List | ast.Tuple) else []
    return [text for each in listed if (text := _text(each))]


def _text(value: ast.expr) -> str:
    """Return a text; of one that is put together, such as "name>=%s" % least, the name."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    if isinstance(value, ast.JoinedStr) and value.values:
        return re.split(r"[<>=!~]", _text(value.values[0]))[0]
    if isinstance(value, ast.BinOp):
        return re.split(r"[<>=!~%]", _text(value.left))[0]
    return ""
