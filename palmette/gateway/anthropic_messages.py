"""Messages and tools as Anthropic's Messages writes them, read into the project's own records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from palmette.chat.message import Message, Tool, ToolCall
from palmette.gateway.fields import (
    MAX_MESSAGES,
    read_description,
    read_list,
    read_object,
    read_schema,
    read_string,
)
from palmette.gateway.refusal import malformed
from palmette.gateway.told import NOTHING, Place, Told

_NO_IMAGES = "only text is supported: this gateway serves a text model without images and documents."


def read_system(value: Any) -> tuple[Message, ...]:
    """Return the system prompt, a string or text blocks, as a message; none for nothing. Raises `Refusal`."""
    text = _text(value, "system")
    return (Message(role="system", content=text),) if text else ()


def read_messages(fields: Mapping[str, Any], told: Told = NOTHING) -> Told:
    """Return the messages behind those of `told`; each result block of a user's turn becomes one. Raises `Refusal`."""
    value = read_list(fields, "messages")
    if not value:
        raise malformed("messages", "expected a list with at least one message.")
    begun = told.end
    if begun.items + len(value) > MAX_MESSAGES:
        raise malformed("messages", f"expected at most {MAX_MESSAGES} messages.")
    messages: list[Message] = []
    places: list[Place] = []
    for index, item in enumerate(value):
        at = f"messages[{index}]"
        one = read_object(item, at)
        role, content = one.get("role"), one.get("content")
        if role == "assistant":
            messages.append(_assistant(content, f"{at}.content"))
        elif role == "user":
            messages += _user(content, f"{at}.content")
        elif role == "system":
            messages.append(Message(role="system", content=_text(content, f"{at}.content")))
        else:
            raise malformed(f"{at}.role", "expected user, assistant or system.")
        places.append(Place(items=begun.items + index + 1, messages=begun.messages + len(messages)))
    return told.onward(messages, places)


def read_tools(fields: Mapping[str, Any]) -> tuple[Tool, ...]:
    """Return the client's tools. Raises `Refusal`, also for tools that a server would have to run."""
    tools = []
    for index, item in enumerate(read_list(fields, "tools")):
        at = f"tools[{index}]"
        tool = read_object(item, at)
        if tool.get("type", "custom") not in ("custom", None):
            raise malformed(f"{at}.type", "only the client's own tools are supported.")
        schema = read_schema(tool.get("input_schema"), f"{at}.input_schema")
        tools.append(
            Tool(name=read_string(tool, "name", at), description=read_description(tool, at), parameters=schema)
        )
    return tuple(tools)


def _user(content: Any, at: str) -> Iterator[Message]:
    """Yield a user's turn in its order: results one by one, what is written between them together."""
    if isinstance(content, str):
        yield Message(role="user", content=content)
        return
    texts: list[str] = []
    blocks = _blocks(content, at)
    for here, block in blocks:
        if block.get("type") == "tool_result":
            if texts:
                yield Message(role="user", content="\n".join(texts))
                texts = []
            call = read_string(block, "tool_use_id", here)
            yield Message(role="tool", content=_text(block.get("content"), f"{here}.content"), tool_call_id=call)
        else:
            texts.append(_text_of(block, here))
    if texts or not blocks:
        yield Message(role="user", content="\n".join(texts))


def _assistant(content: Any, at: str) -> Message:
    if isinstance(content, str):
        return Message(role="assistant", content=content)
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    for here, block in _blocks(content, at):
        match block.get("type"):
            case "tool_use":
                arguments = read_object(block.get("input", {}), f"{here}.input")
                name = read_string(block, "name", here)
                calls.append(ToolCall(id=read_string(block, "id", here), name=name, arguments=arguments))
            case "thinking":
                reasoning.append(_string(block, "thinking", here))
            case "redacted_thinking":
                pass
            case _:
                texts.append(_text_of(block, here))
    return Message(
        role="assistant",
        content="\n".join(texts),
        tool_calls=tuple(calls),
        reasoning="\n".join(reasoning) or None,
    )


def _text(value: Any, at: str) -> str:
    """Return the text of a string or of text blocks, joined by newlines."""
    if value is None or isinstance(value, str):
        return value or ""
    return "\n".join(_text_of(block, here) for here, block in _blocks(value, at))


def _text_of(block: Mapping[str, Any], at: str) -> str:
    if block.get("type") == "tool_reference":  # a result of Claude Code's search for tools
        return _string(block, "tool_name", at)
    if block.get("type") != "text":
        raise malformed(at, _NO_IMAGES)
    return _string(block, "text", at)


def _blocks(value: Any, at: str) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(value, list):
        raise malformed(at, "expected a string or a list of blocks.")
    return [(f"{at}[{index}]", read_object(item, f"{at}[{index}]")) for index, item in enumerate(value)]


def _string(block: Mapping[str, Any], name: str, at: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise malformed(f"{at}.{name}", "expected a string.")
    return value
