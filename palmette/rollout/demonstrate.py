"""Demonstrations: the reference steps of a task, acted out in a real sandbox and rendered as a rollout would be.

The observations are what the sandbox answers, not what the task's author expected, and the tokens are laid out turn by
turn exactly as the gateway lays them out, so a model is taught what it will meet.
"""

from __future__ import annotations

from dataclasses import dataclass

from palmette.chat.message import Message, ToolCall
from palmette.chat.template import Renderer
from palmette.envs.api import Task
from palmette.envs.prepare import prepare, spec_when_made
from palmette.envs.task import load_steps
from palmette.sandbox.api import Host
from palmette.scaffolds.loop import SYSTEM_PROMPT, TOOLS, act


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
    messages: list[Message] = [
        Message(role="system", content=SYSTEM_PROMPT),
        Message(role="user", content=task.instruction),
    ]
    prompt = renderer.prompt(messages, TOOLS)
    sampled = [False] * len(prompt)
    steps = load_steps(task)
    sandbox = await host.start(await spec_when_made(task, owner=f"demonstrate/{task.name}"))
    try:
        await prepare(sandbox, task)
        for number, step in enumerate(steps):
            call = ToolCall(id=f"call{number}", name=step.tool, arguments=step.arguments)
            turn = Message(role="assistant", tool_calls=(call,))
            answer = renderer.completion(messages, turn, TOOLS)
            messages.append(turn)
            sampled += [True] * len(answer)
            if number == len(steps) - 1:
                prompt = [*prompt, *answer]
                break
            told = Message(role="tool", content=await act(call, sandbox), tool_call_id=call.id)
            prompt = renderer.extend(prompt, answer, messages, [told], TOOLS)
            messages.append(told)
            sampled += [False] * (len(prompt) - len(sampled))
    finally:
        await sandbox.close()
    return Demonstration(task=task.name, token_ids=tuple(prompt), sampled=tuple(sampled))
