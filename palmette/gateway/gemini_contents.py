"""Contents and tools as Google's generateContent writes them, read into the project's own records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from palmette.chat.message import Message, Tool, ToolCall
from palmette.gateway.fields import MAX_MESSAGES, read_description, read_list, read_object, read_schema, read_string
from palmette.gateway.refusal import malformed
from palmette.gateway.told import NOTHING, Place, Told

_NO_IMAGES = "only text, functionCall and functionResponse are supported: this gateway serves a text model."


@dataclass(slots=True)
class _Contents:
    """The messages so far. A model's turn may come in several contents: a client that streamed keeps its pieces."""

    messages: list[Message] = field(default_factory=list)
    calls: int = 0
    unanswered: list[ToolCall] = field(default_factory=list)


def read_proto(value: Any, at: str) -> dict[str, Any]:
    """Return an object whose own keys may be written in either case, as protocol buffers allow, in camel case."""
    return {re.sub(r"_([a-z])", lambda m: m[1].upper(), key): item for key, item in read_object(value, at).items()}


def read_system(value: Any) -> tuple[Message, ...]:
    """Return the system instruction as a message, none for nothing. Raises `Refusal`."""
    if value is None:
        return ()
    at = "systemInstruction"
    parts = [{"text": value}] if isinstance(value, str) else read_list(read_proto(value, at), "parts", f"{at}.")
    text = "\n".join(_text(read_proto(part, f"{at}.parts[{n}]"), f"{at}.parts[{n}]") for n, part in enumerate(parts))
    return (Message(role="system", content=text),) if text else ()


def read_contents(fields: Mapping[str, Any], told: Told = NOTHING) -> Told:
    """Return the messages behind those of `told`; each function response becomes one. Raises `Refusal`.

    There is no place behind a model's content, which the next one may go on with.
    """
    value = fields.get("contents")
    value = [value] if isinstance(value, dict) else read_list(fields, "contents")
    if not value:
        raise malformed("contents", "expected a list with at least one content.")
    begun = told.end
    if begun.items + len(value) > MAX_MESSAGES:
        raise malformed("contents", f"expected at most {MAX_MESSAGES} contents.")
    read = _Contents(calls=begun.calls, unanswered=list(begun.unanswered))
    places: list[Place] = []
    for index, item in enumerate(value):
        at = f"contents[{index}]"
        content = read_proto(item, at)
        role = content.get("role", "user")
        parts = [
            (here, read_proto(part, here))
            for number, part in enumerate(read_list(content, "parts", f"{at}."))
            for here in (f"{at}.parts[{number}]",)
        ]
        if role == "model":
            _add_model(read, parts)
        elif role in ("user", "function"):
            _add_user(read, parts)
        else:
            raise malformed(f"{at}.role", "expected user, model or function.")
        if role != "model":
            places.append(_place(read, begun, index + 1))
    return told.onward(read.messages, places)


def read_tools(fields: Mapping[str, Any]) -> tuple[Tool, ...]:
    """Return the declared functions. Raises `Refusal`, also for tools that a server would have to run."""
    tools = []
    for index, item in enumerate(read_list(fields, "tools")):
        at = f"tools[{index}]"
        group = read_proto(item, at)
        for name, value in group.items():
            if name != "functionDeclarations" and value is not None:
                raise malformed(f"{at}.{name}", "only functionDeclarations are supported.")
        for number, declared in enumerate(read_list(group, "functionDeclarations", f"{at}.")):
            here = f"{at}.functionDeclarations[{number}]"
            function = read_proto(declared, here)
            schema = function.get("parametersJsonSchema")
            schema = _json_schema(function.get("parameters")) if schema is None else schema
            tools.append(
                Tool(
                    name=read_string(function, "name", here),
                    description=read_description(function, here),
                    parameters=read_schema(schema, f"{here}.parameters"),
                )
            )
    return tuple(tools)


def _place(read: _Contents, begun: Place, items: int) -> Place:
    return Place(
        items=begun.items + items,
        messages=begun.messages + len(read.messages),
        calls=read.calls,
        unanswered=tuple(read.unanswered),
    )


def _add_model(read: _Contents, parts: list[tuple[str, dict[str, Any]]]) -> None:
    if read.messages and read.messages[-1].role == "assistant":
        before = read.messages.pop()
    else:
        before, read.unanswered = Message(role="assistant"), []
    texts, reasoning, calls = [before.content], [before.reasoning or ""], list(before.tool_calls)
    for at, part in parts:
        if part.get("functionCall") is not None:
            call = read_proto(part["functionCall"], f"{at}.functionCall")
            given = call.get("args")
            arguments = read_object({} if given is None else given, f"{at}.functionCall.args")
            name = read_string(call, "name", f"{at}.functionCall")
            made = ToolCall(id=_id(call) or f"call-{read.calls}", name=name, arguments=arguments)
            calls.append(made)
            read.unanswered.append(made)
            read.calls += 1
        elif part.get("thought") is True:
            reasoning.append(_text(part, at))
        else:
            texts.append(_text(part, at))
    message = Message(
        role="assistant",
        content="".join(texts),
        tool_calls=tuple(calls),
        reasoning="".join(reasoning) or None,
    )
    read.messages.append(message)


def _add_user(read: _Contents, parts: list[tuple[str, dict[str, Any]]]) -> None:
    """Add a user's turn in its order: responses one by one, what is written between them together."""
    texts: list[str] = []

    def flush() -> None:
        if texts:
            read.messages.append(Message(role="user", content="\n".join(texts)))
            texts.clear()

    for at, part in parts:
        if part.get("functionResponse") is None:
            texts.append(_text(part, at))
            continue
        flush()
        response = read_proto(part["functionResponse"], f"{at}.functionResponse")
        name = read_string(response, "name", f"{at}.functionResponse")
        given = response.get("response")
        told = _told(read_object({} if given is None else given, f"{at}.functionResponse.response"))
        identity = _answered(read, _id(response), name)
        read.messages.append(Message(role="tool", content=told, tool_call_id=identity))
    flush()
    if not parts:
        read.messages.append(Message(role="user"))


def _answered(read: _Contents, identity: str, name: str) -> str:
    """Return the id of the call that a response answers: the one it names, else the first open one of its function."""
    of_id = [call for call in read.unanswered if call.id == identity]
    of_name = [call for call in read.unanswered if call.name == name]
    call = next(iter(of_id or of_name), None)
    if call is None:
        return identity or name
    read.unanswered.remove(call)
    return call.id


def _told(response: Mapping[str, Any]) -> str:
    """Return what a function's response tells the model: its text where it is nothing else, otherwise JSON."""
    for name in ("output", "result"):
        if list(response) == [name] and isinstance(response[name], str):
            return response[name]
    return orjson.dumps(response).decode()


def _id(fields: Mapping[str, Any]) -> str:
    value = fields.get("id")
    return value if isinstance(value, str) else ""


def _text(part: Mapping[str, Any], at: str) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise malformed(f"{at}.text" if "text" in part else at, _NO_IMAGES)
    return text


def _json_schema(value: Any) -> Any:
    """Return Google's form of a schema as JSON schema: its names of types are written in capitals."""
    if isinstance(value, list):
        return [_json_schema(item) for item in value]
    if not isinstance(value, dict):
        return value
    lowered = {key: item.lower() if key == "type" and isinstance(item, str) else item for key, item in value.items()}
    return {key: _json_schema(item) if isinstance(item, dict | list) else item for key, item in lowered.items()}
