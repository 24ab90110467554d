"""Messages and tool calls as every dialect, template and scaffold of the project sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call the model asks for, e.g. ``ToolCall(id="c0", name="bash", arguments={"command": "ls"})``."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool offered to the model; `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation.

    `tool_calls` belongs to assistant messages, `tool_call_id` to tool messages. `reasoning` is what a reasoning
    model wrote before its answer. `malformed` is set on a parsed assistant message whose tool call could not be
    read: the raw text is then in `content`, and nothing is guessed.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = field(default=())
    tool_call_id: str | None = None
    reasoning: str | None = None
    malformed: str | None = None
