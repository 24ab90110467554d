"""Generated agent transcripts of mixed quality, as a base model would have met them.

Every transcript is a task of a domain with the reference steps, rendered as the built-in loop would show them, with the
tools and the system prompt that the task brings. A `sloppy` share of them goes wrong at exactly one step (`blunder`),
so that the base has seen all of the work and is reliable at none of it: that is what specialising is for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palmette.chat.message import Message, Tool
from palmette.envs.api import Draft, Split, Step
from palmette.envs.names import domain
from palmette.envs.tools import SAY
from palmette.rollout.demonstrate import turn_of
from palmette.rollout.offer import offer_of
from palmette.scaffolds.loop import SYSTEM_PROMPT, toolset
from palmette.train.base.blunder import blunder


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A conversation of a domain, and the tools that the model is offered in it."""

    domain: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]


def transcripts(
    shares: Mapping[str, float],
    tiers: Mapping[str, Sequence[int]],
    *,
    count: int,
    sloppy: float,
    split: Split,
    seed: str,
) -> list[Transcript]:
    """Return `count` transcripts, each domain its share of any beginning of them, a share `sloppy` with one wrong step.

    `shares` are weights; `tiers` are those of each domain, drawn evenly.
    """
    rng = random.Random(f"corpus/{split}/{seed}")
    found: list[Transcript] = []
    for number, name in enumerate(turns(shares, count)):
        source = domain(name)
        draft = source.draft(rng, tier=rng.choice(list(tiers[name])), split=split, name=f"corpus/{seed}/{number}")
        steps = blunder(draft.steps, rng, split) if rng.random() < sloppy else draft.steps
        tools = toolset(offer_of(draft))
        found.append(Transcript(domain=name, messages=conversation(draft, steps), tools=tools))
    return found


def turns(shares: Mapping[str, float], count: int) -> list[str]:
    """Return whose turn it is, `count` times, as near to the shares as can be at every moment; equal ones in order.

    Raises `ValueError` for no share above 0.
    """
    total = sum(shares.values())
    if total <= 0 or min(shares.values()) < 0:
        raise ValueError(f"shares must be at least 0, and one of them above: {dict(shares)}")
    given = dict.fromkeys(shares, 0)
    order: list[str] = []
    for number in range(1, count + 1):
        name = max(shares, key=lambda each: round(shares[each] / total * number - given[each], 9))
        given[name] += 1
        order.append(name)
    return order


def conversation(draft: Draft, steps: Sequence[Step]) -> tuple[Message, ...]:
    """Return the conversation in which `steps` are the assistant's turns, a call or words each, up to the last call."""
    system = draft.system or SYSTEM_PROMPT
    messages = [Message(role="system", content=system), Message(role="user", content=draft.instruction)]
    for number, step in enumerate(steps):
        messages.append(turn_of(step, number))
        if step.tool == SAY:
            messages.append(Message(role="user", content=step.observation))
        else:
            messages.append(Message(role="tool", content=step.observation, tool_call_id=f"call{number}"))
    return tuple(messages[:-1])  # nothing is said after the last call: it submits
