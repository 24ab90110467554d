"""From what a model wrote to a message: reasoning, text and tool calls, in the syntaxes that models are trained on.

Nothing is repaired or guessed. A call that cannot be read makes the whole message malformed: its text stays as it is
and the reason is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from palmette.chat.message import Message, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a syntax found: the text around the calls, and the calls as (name, arguments)."""

    content: str
    calls: tuple[tuple[str, Mapping[str, Any]], ...]


class Malformed(ValueError):
    """A tool call was begun but cannot be read; the text says why."""


Syntax = Callable[[str], Found | None]  # None: this text makes no use of the syntax. Raises `Malformed`


def hermes(text: str) -> Found | None:
    """Read ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>`` anywhere, several for parallel calls (Qwen)."""
    opening, closing = "<tool_call>", "</tool_call>"
    around: list[str] = []
    calls: list[tuple[str, Mapping[str, Any]]] = []
    stop = 0
    while (start := text.find(opening, stop)) >= 0:
        around.append(text[stop:start])
        value, stop = _json(text, start + len(opening))
        calls.append(_call(value, "arguments"))
        stop = _skip(text, stop)
        if not text.startswith(closing, stop):
            raise Malformed(f"expected {closing} behind the call")
        stop += len(closing)
    around.append(text[stop:])
    if any(closing in part for part in around):
        raise Malformed(f"{closing} without {opening}")
    if not calls:
        return None
    return Found(content="\n".join(part.strip() for part in around if part.strip()), calls=tuple(calls))


def llama(text: str) -> Found | None:
    """Read a message that is only ``{"name": ..., "parameters": {...}}``, or such objects behind ``<|python_tag|>``.

    Several are parted by ";". Without the tag, JSON that has no `name` and `parameters` is an answer and not a call.
    """
    if text.lstrip().startswith("{"):
        content, body = "", text
        if '"name"' not in text or '"parameters"' not in text:
            return None
    else:
        content, tag, body = text.partition("<|python_tag|>")
        if not tag:
            return None
    calls = []
    stop = 0
    while True:
        value, stop = _json(body, stop)
        calls.append(_call(value, "parameters"))
        stop = _skip(body, stop)
        if stop == len(body):
            return Found(content=content.strip(), calls=tuple(calls))
        if body[stop] != ";":
            raise Malformed("there is text behind the call")
        stop += 1


def mistral(text: str) -> Found | None:
    """Read ``[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`` at the end of a message."""
    content, tag, body = text.partition("[TOOL_CALLS]")
    if not tag:
        return None
    values, stop = _json(body, 0)
    if not isinstance(values, list) or not values:
        raise Malformed("[TOOL_CALLS] must be followed by a list of calls")
    if _skip(body, stop) != len(body):
        raise Malformed("there is text behind the calls")
    return Found(content=content.strip(), calls=tuple(_call(value, "arguments") for value in values))


SYNTAXES: dict[str, Syntax] = {"hermes": hermes, "llama": llama, "mistral": mistral}
_MARKS = {
    "hermes": ("<tool_call>",),
    "llama": ("<|python_tag|>", '"parameters": '),
    "mistral": ("[TOOL_CALLS]",),
}


BEGINNINGS: dict[Syntax, tuple[str, ...]] = {
    hermes: ("<tool_call>",),
    llama: ("<|python_tag|>",),
    mistral: ("[TOOL_CALLS]",),
}
"""What begins a call anywhere in an answer."""
BEGINNINGS_AT_START: dict[Syntax, tuple[str, ...]] = {llama: ("{",)}
"""What begins a call where an answer begins with it."""


def syntaxes_of(template: str) -> tuple[Syntax, ...]:
    """Return the syntaxes that a chat template itself writes; all of them if it writes none."""
    named = tuple(name for name in SYNTAXES if any(mark in template for mark in _MARKS[name]))
    return tuple(SYNTAXES[name] for name in named or SYNTAXES)


def read(text: str, syntaxes: Iterable[Syntax] = tuple(SYNTAXES.values()), *, thinking: bool = False) -> Message:
    """Return the assistant message that `text` (without its stop token) says; never raises.

    The first syntax that finds something decides. ``<think>...</think>`` at the start becomes `reasoning`; with
    `thinking` the prompt has opened it already. Calls are numbered call0, call1 ... within the message.
    """
    reasoning, content = _reasoning(text, thinking)
    try:
        found = next((found for syntax in syntaxes if (found := syntax(content)) is not None), None)
    except Malformed as error:
        return Message(role="assistant", content=content, reasoning=reasoning, malformed=str(error))
    if found is None:
        return Message(role="assistant", content=content, reasoning=reasoning)
    calls = tuple(
        ToolCall(id=f"call{number}", name=name, arguments=arguments)
        for number, (name, arguments) in enumerate(found.calls)
    )
    return Message(role="assistant", content=found.content, reasoning=reasoning, tool_calls=calls)


def _reasoning(text: str, thinking: bool) -> tuple[str | None, str]:
    opened = text.lstrip()
    if opened.startswith("<think>"):
        opened = opened.removeprefix("<think>")
    elif not thinking:
        return None, text
    reasoning, _, rest = opened.partition("</think>")
    return reasoning.strip("\n") or None, rest.lstrip("\n")


def _call(value: Any, key: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(value, dict):
        raise Malformed("a call must be a JSON object")
    name, arguments = value.get("name"), value.get(key)
    if not isinstance(name, str) or not name:
        raise Malformed('a call needs a "name"')
    if not isinstance(arguments, dict):
        raise Malformed(f'the call of {name} needs "{key}", a JSON object')
    return name, arguments


def _json(text: str, start: int) -> tuple[Any, int]:
    """Return the JSON value at `start` and where it ends."""
    try:
        value, stop = _DECODER.raw_decode(text, _skip(text, start))
        json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is JSON but no text
    except RecursionError:
        raise Malformed("the call is no JSON: nested too deeply") from None
    except UnicodeEncodeError:
        raise Malformed("the call is no JSON: half of a surrogate pair") from None
    except ValueError as error:
        raise Malformed(f"the call is no JSON: {error}") from None
    return value, stop


def _skip(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
