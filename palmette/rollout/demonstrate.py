"""Demonstrations: the reference steps of a task, acted out in a real sandbox and rendered as a rollout would be.

The observations are what the sandbox answers, not what the task's author expected, and the tokens are laid out turn by
turn exactly as the gateway lays them out, so a model is taught what it will meet.
"""

from __future__ import annotations

from dataclasses import dataclass

from palmette.chat.message import Message, ToolCall
from palmette.chat.template import Renderer
from palmette.envs.api import Step, Task
from palmette.envs.services import opened
from palmette.envs.task import load_steps
from palmette.envs.tools import SAY
from palmette.rollout.offer import offer_of
from palmette.sandbox.api import Host, Sandbox
from palmette.scaffolds.api import Offer
from palmette.scaffolds.loop import SYSTEM_PROMPT, act, toolset


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """One sequence to imitate; `sampled[t]` marks the tokens of the assistant's turns (both of length T)."""

    task: str
    token_ids: tuple[int, ...]
    sampled: tuple[bool, ...]


async def demonstrate(task: Task, renderer: Renderer, host: Host) -> Demonstration:
    """Act out the reference steps of `task` and return them as tokens.

    Raises `UserError` when the task has no reference steps, `SandboxError` when the sandbox fails.
    """
    steps = load_steps(task)
    async with opened(task, host, owner=f"demonstrate/{task.name}") as (sandbox, services):
        offer = offer_of(task, services)
        tools = toolset(offer)
        messages: list[Message] = [
            Message(role="system", content=offer.system or SYSTEM_PROMPT),
            Message(role="user", content=task.instruction),
        ]
        prompt = renderer.prompt(messages, tools)
        sampled = [False] * len(prompt)
        for number, step in enumerate(steps):
            turn = turn_of(step, number)
            answer = renderer.completion(messages, turn, tools)
            messages.append(turn)
            sampled += [True] * len(answer)
            if number == len(steps) - 1:
                prompt = [*prompt, *answer]
                break
            told = await _told(step, turn, sandbox, offer)
            prompt = renderer.extend(prompt, answer, messages, [told], tools)
            messages.append(told)
            sampled += [False] * (len(prompt) - len(sampled))
    return Demonstration(task=task.name, token_ids=tuple(prompt), sampled=tuple(sampled))


def turn_of(step: Step, number: int) -> Message:
    """Return the assistant's message that takes a step of a reference: one call, or plain words to the user."""
    if step.tool == SAY:
        return Message(role="assistant", content=step.arguments["text"])
    call = ToolCall(id=f"call{number}", name=step.tool, arguments=step.arguments)
    return Message(role="assistant", tool_calls=(call,))


async def _told(step: Step, turn: Message, sandbox: Sandbox, offer: Offer) -> Message:
    """Return what the step is answered by."""
    if step.tool == SAY and offer.say is not None:
        return Message(role="user", content=await offer.say(turn.content) or "")
    (call,) = turn.tool_calls
    return Message(role="tool", content=await act(call, sandbox, offer=offer), tool_call_id=call.id)
