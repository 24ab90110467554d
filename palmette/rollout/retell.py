"""Conversations that are known as text alone, tokenised anew to be imitated.

The tokens are this model's for the same words, not those that were sampled (nobody knows these): fit for imitation,
and unfit for anything that asks how probable they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palmette.chat.message import Message, Tool, ToolCall
from palmette.chat.template import PrefixBroken, Renderer


@dataclass(frozen=True, slots=True, kw_only=True)
class Retold:
    """One sequence; `sampled[t]` marks tokens of answers that no other sequence is to imitate (both of length T)."""

    token_ids: tuple[int, ...]
    sampled: tuple[bool, ...]


def retell(
    conversation: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], renderer: Renderer
) -> list[Retold]:
    """Return a rollout's conversation as token sequences, in which every answer of its model is marked once.

    `conversation` is a tree of messages as `palmette.gateway.transcript` tells it. Raises `UserError` where the chat
    template does not accept it.
    """
    offered = [Tool(name=t["name"], description=t["description"], parameters=t["parameters"]) for t in tools]
    parents = {said["parent"] for said in conversation}
    done: set[int] = set()
    retold: list[Retold] = []
    for leaf, said in enumerate(conversation):
        if leaf not in parents and said["role"] == "assistant":
            retold += _retell_path(conversation, _path(conversation, leaf), offered, renderer, done)
    return retold


def _retell_path(
    conversation: Sequence[Mapping[str, Any]],
    path: Sequence[int],
    tools: Sequence[Tool],
    renderer: Renderer,
    done: set[int],
) -> list[Retold]:
    """Return a path as one sequence, or several where the template tells earlier messages otherwise later on."""
    messages = _messages([conversation[at] for at in path])
    answers = [n for n, at in enumerate(path) if "leaf" in conversation[at]]
    found: list[Retold] = []
    ids: list[int] = []
    sampled: list[bool] = []
    before = 0  # messages that `ids` tell, the last of them an answer
    for number in answers:
        new = messages[before:number]
        try:
            ids = renderer.extend(ids[:-1], ids[-1:], messages[:before], new, tools) if ids else []
        except PrefixBroken:
            found.append(Retold(token_ids=tuple(ids), sampled=tuple(sampled)))
            ids, sampled = [], []
        ids = ids or renderer.prompt(messages[:number], tools)
        sampled += [False] * (len(ids) - len(sampled))
        answer = renderer.completion(messages[:number], messages[number], tools)
        ids = [*ids, *answer]
        sampled += [path[number] not in done] * len(answer)
        done.add(path[number])
        before = number + 1
    found.append(Retold(token_ids=tuple(ids), sampled=tuple(sampled)))
    return [one for one in found if any(one.sampled)]


def _path(conversation: Sequence[Mapping[str, Any]], leaf: int) -> list[int]:
    path: list[int] = []
    at: int | None = leaf
    while at is not None:
        path.append(at)
        at = conversation[at]["parent"]
    return path[::-1]


def _messages(told: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return messages with ids for their calls, which a transcript leaves out; results answer calls in their order."""
    messages: list[Message] = []
    calls, open_ids = 0, []
    for said in told:
        made = tuple(
            ToolCall(id=f"call{calls + n:05d}", name=call["name"], arguments=call["arguments"])
            for n, call in enumerate(said.get("tool_calls", ()))
        )
        if said["role"] == "assistant":
            calls, open_ids = calls + len(made), [call.id for call in made]
        answered = (open_ids.pop(0) if open_ids else "call") if said["role"] == "tool" else None
        messages.append(
            Message(
                role=said["role"],
                content=said["content"],
                tool_calls=made,
                tool_call_id=answered,
                reasoning=said.get("reasoning"),
            )
        )
    return messages
