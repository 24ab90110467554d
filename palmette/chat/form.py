"""Messages and tools as the dicts that chat templates read, in the variants that templates differ in.

A template without tools, or without a system role, still serves: what it cannot write itself goes into the text of the
messages, calls in the Hermes syntax that `palmette.chat.parse` reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol

from palmette.chat.message import Message, Tool, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What one template wants; most take the defaults."""

    arguments_as_text: bool = False  # the arguments of a call as JSON text, not as a dict
    short_ids: bool = False  # call ids of nine letters or digits (Mistral)
    reasoning_key: bool = False  # `reasoning_content` beside the content, not <think> tags in it
    system_in_user: bool = False  # it has no system role: the first user message begins with that text
    calls_in_text: bool = False  # it writes no calls: they stand in the content, results in user messages
    tools_in_text: bool = False  # it lists no tools: the system message does


class Hide(Protocol):
    """`palmette.chat.control.Control.hide`."""

    def __call__(self, value: Any, *, marks: bool = True) -> Any: ...


_SCHEMA = {"type": "object", "properties": {"x": {"type": "string", "description": "an x"}}, "required": ["x"]}
_TOOL = Tool(name="palmettetool", description="a tool", parameters=_SCHEMA)

Render = Callable[[Sequence[Message], Sequence[Tool], Form], str | None]  # None: the template refuses


def find_form(render: Render) -> Form:
    """Return what a template wants, found by rendering small conversations and looking for what was said in them."""
    form, user = Form(), Message(role="user", content="?")
    if "palmettesystem" not in (render([Message(role="system", content="palmettesystem"), user], (), form) or ""):
        form = replace(form, system_in_user=True)
    call = ToolCall(id="call0", name="f", arguments={"palmettekey": "palmettevalue"})
    acting = [
        user,
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="!", tool_call_id="call0"),
    ]
    variants = [replace(form, arguments_as_text=t, short_ids=s) for s, t in product((False, True), repeat=2)]
    texts = [(variant, render(acting, (), variant) or "") for variant in variants]
    as_json = [variant for variant, text in texts if '"palmettekey"' in text]  # not a Python dict's '...', nor \"...\"
    at_all = [variant for variant, text in texts if "palmettevalue" in text]
    form = next(iter(as_json + at_all), replace(form, calls_in_text=True))
    if "palmettetool" not in (render([user], [_TOOL], form) or ""):
        form = replace(form, tools_in_text=True)
    thinking = Message(role="assistant", content="!", reasoning="palmettethought")
    keyed = replace(form, reasoning_key=True)
    return keyed if "palmettethought" in (render([user, thinking], (), keyed) or "") else form


def tell(messages: Sequence[Message], tools: Sequence[Tool], form: Form, hide: Hide) -> list[dict[str, Any]]:
    """Return the messages as dicts, control strings in their content hidden."""
    names: dict[str, str] = {}  # of the calls so far, by id
    told: list[dict[str, Any]] = []
    for message in _spelled(messages, tools, form):
        one: dict[str, Any] = {"role": message.role, "content": _content(message, form, hide)}
        if message.reasoning is not None and form.reasoning_key:
            one["reasoning_content"] = hide(message.reasoning, marks=False)
        if message.tool_calls:
            one["tool_calls"] = [_call(call, form, hide) for call in message.tool_calls]
            names.update((call.id, call.name) for call in message.tool_calls)
        if message.tool_call_id is not None:
            one["tool_call_id"] = _call_id(message.tool_call_id, form, hide)
            if message.tool_call_id in names:
                one["name"] = hide(names[message.tool_call_id])
        told.append(one)
    return told


def as_it_is(value: Any, *, marks: bool = True) -> Any:
    """Hide nothing: for text that is not going to be tokenised, or that can be trusted."""
    return value


def schema(tool: Tool, hide: Hide = as_it_is) -> dict[str, Any]:
    """Return a tool as the function schema that templates print; many of them count on `properties`."""
    parameters = {"type": "object", "properties": {}} | dict(tool.parameters)
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": hide(function)}


def _content(message: Message, form: Form, hide: Hide) -> str:
    content = hide(message.content, marks=message.role != "assistant")
    if message.reasoning is None or form.reasoning_key:
        return content
    return f"<think>\n{hide(message.reasoning, marks=False)}\n</think>\n\n{content}"


def _call(call: ToolCall, form: Form, hide: Hide) -> dict[str, Any]:
    hidden = hide(call.arguments)
    told = json.dumps(hidden, ensure_ascii=False) if form.arguments_as_text else hidden
    function = {"name": hide(call.name), "arguments": told}
    return {"id": _call_id(call.id, form, hide), "type": "function", "function": function}


def _call_id(identity: str, form: Form, hide: Hide) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", identity)[-9:].rjust(9, "0") if form.short_ids else hide(identity)


def _spelled(messages: Sequence[Message], tools: Sequence[Tool], form: Form) -> list[Message]:
    """Return the messages with what the template cannot write put into their text."""
    spelled = _calls_spelled(messages) if form.calls_in_text else list(messages)
    if tools and form.tools_in_text:
        head = spelled.pop(0).content + "\n\n" if spelled and spelled[0].role == "system" else ""
        spelled.insert(0, Message(role="system", content=head + _tools_spelled(tools, form)))
    if form.system_in_user and [message.role for message in spelled[:2]] == ["system", "user"]:
        system, user = spelled[:2]
        spelled[:2] = [replace(user, content=f"{system.content}\n\n{user.content}")]
    return spelled


def _calls_spelled(messages: Sequence[Message]) -> list[Message]:
    spelled: list[Message] = []
    answers = False  # whether the last message is a user's that begins with a result
    for message in messages:
        calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls]
        lines = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
        content = "\n".join([message.content] * bool(message.content or not lines) + lines)
        role = message.role
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        if role == "user" and answers:  # roles must take turns in many templates
            spelled[-1] = replace(spelled[-1], content=f"{spelled[-1].content}\n{content}")
            continue
        spelled.append(Message(role=role, content=content, reasoning=message.reasoning))
        answers = message.role == "tool"
    return spelled


def _tools_spelled(tools: Sequence[Tool], form: Form) -> str:
    signatures = [json.dumps(schema(tool), ensure_ascii=False) for tool in tools]
    listed = ["# Tools", "", "You may call these functions:", "<tools>", *signatures, "</tools>"]
    if form.calls_in_text:
        listed += ["", "For each call, write a JSON object with its name and arguments within <tool_call></tool_call>:"]
        listed += ["<tool_call>", '{"name": <function-name>, "arguments": <args-json-object>}', "</tool_call>"]
    return "\n".join(listed)
