"""A short conversation that a template goes on from as it does from a long one.

What a template writes behind an answer depends, in nearly every template, on the answer, on what follows it and on the
few messages around, not on a hundred before. So the next prompt's new part is rendered behind a stand-in of the
history, and costs what is new. A template is believed to be like that when it treats all of `probes` so, and it is
asked again, over the whole history, whenever a conversation's length passes a power of two (`Renderer.onward`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from palmette.chat.message import Message, Tool, ToolCall

_LEAST = 8  # messages of a history that is worth a stand-in
_CHARS = 64  # kept of each text that stands for a longer one


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """A conversation that ends with the assistant's answer, and what comes after it."""

    messages: tuple[Message, ...]
    new: tuple[Message, ...]
    tools: tuple[Tool, ...]


def stand_in(messages: Sequence[Message], new: Sequence[Message], tools: Sequence[Tool]) -> Going | None:
    """Return a short form of a conversation whose last message is the answer; None where only all of it will do.

    Kept are the system message, the first user's, the last thing said before the answer with its results, the answer,
    and the tools that are called in these. A history with reasoning in it must be told whole when anybody but a tool
    speaks next: many templates then drop the reasoning of earlier turns.
    """
    history, answer = messages[:-1], messages[-1]
    if len(history) < _LEAST or _drops_reasoning(history, new):
        return None
    last = next((at for at in range(len(history) - 1, -1, -1) if history[at].role in ("user", "assistant")), 0)
    head = 1 + (history[0].role == "system")
    if last < head or history[head - 1].role != "user":
        return None
    opening = history[: head - 1] if history[last].role == "user" else history[:head]
    kept = [_short(message) for message in (*opening, *history[last:])]
    called = {call.name for message in (*kept, answer) for call in message.tool_calls}
    known = [tool for tool in tools if tool.name in called] or tools[:1]
    named = tuple(replace(tool, description=tool.description[:_CHARS]) for tool in known)
    return Going(messages=(*kept, answer), new=tuple(new), tools=named)


def is_time_to_ask(messages: Sequence[Message], new: Sequence[Message]) -> bool:
    """Say whether a conversation grows past a power of two with what is new."""
    return len(messages).bit_length() != (len(messages) + len(new)).bit_length()


def probes() -> Iterator[Going]:
    """Yield conversations of the shapes that agents make: with and without system, tools, reasoning, parallel calls."""
    tool = Tool(name="f", description="does", parameters={"type": "object", "properties": {"x": {"type": "string"}}})
    for system in (True, False):
        for calls in (0, 1, 2):
            for reasoning in (None, "because"):
                messages = [Message(role="system", content="rules")] * system + [Message(role="user", content="ask")]
                for turn in range(6):
                    answer = _answer(turn, calls, None)
                    messages += [answer, *_results(answer, turn)]
                answer = _answer(9, calls, reasoning)
                for new in (_results(answer, 9), [Message(role="user", content="more")]):
                    yield Going(messages=(*messages, answer), new=tuple(new), tools=(tool,) if calls else ())


def _drops_reasoning(history: Sequence[Message], new: Sequence[Message]) -> bool:
    return any(message.role != "tool" for message in new) and any(
        message.reasoning or (message.role == "assistant" and "think>" in message.content) for message in history
    )


def _short(message: Message) -> Message:
    if len(message.content) <= _CHARS and message.reasoning is None:
        return message
    return replace(
        message, content=message.content[:_CHARS], reasoning=message.reasoning and message.reasoning[:_CHARS]
    )


def _answer(turn: int, calls: int, reasoning: str | None) -> Message:
    made = tuple(ToolCall(id=f"call{turn}000{n}", name="f", arguments={"x": f"{turn}"}) for n in range(calls))
    return Message(role="assistant", content=f"say {turn}", tool_calls=made, reasoning=reasoning)


def _results(answer: Message, turn: int) -> list[Message]:
    if not answer.tool_calls:
        return [Message(role="user", content=f"ask {turn}")]
    return [Message(role="tool", content=f"got {turn}", tool_call_id=call.id) for call in answer.tool_calls]
