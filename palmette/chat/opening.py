"""How an answer begins that must call a tool, in the words of a model's template.

The beginning is found by letting the template write a call and looking for its parts. It is cut where no tokeniser can
tell yet which tool is called with what, so what the model then samples are tokens as it would have sampled them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from palmette.chat.message import Message, ToolCall

_NAME, _KEY = "palmettecall", "palmettekey"
PROBE = Message(role="assistant", tool_calls=(ToolCall(id="call0", name=_NAME, arguments={_KEY: "palmettevalue"}),))
_ARGUMENTS: tuple[dict[str, Any], ...] = ({}, {"a": 1}, {"path": "b"}, {"0": "c"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a template writes around the name and the arguments of a call that is all of an answer."""

    before: str
    between: str
    behind: str

    def written(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a call as the template writes it; `name` stands within a JSON string."""
        return f"{self.before}{name}{self.between}{json.dumps(arguments)}{self.behind}"


def find_shape(written: str) -> Shape | None:
    """Return the shape of `PROBE` as a template wrote it; None if its parts are not there once and in their order."""
    before, named, rest = written.partition(_NAME)
    between, brace, arguments = rest.partition("{")
    inner, closing, behind = arguments.partition("}")
    whole = named and brace and closing and _NAME not in rest and inner.strip().startswith(f'"{_KEY}"')
    return Shape(before=before, between=between, behind=behind) if whole else None


def opening(
    shape: Shape, names: Sequence[str], hide: Callable[[str], str], encode: Callable[[str], list[int]]
) -> list[int]:
    """Return the ids with which every call of one of the tools `names` begins."""
    spelled = [hide(json.dumps(name, ensure_ascii=False)[1:-1]) for name in names]
    written = [encode(shape.written(name, given)) for name in spelled for given in _ARGUMENTS]
    columns = enumerate(zip(*written, strict=False))
    return written[0][: next((at for at, ids in columns if len(set(ids)) > 1), min(map(len, written)))]
