"""A request for one completion, whatever the dialect it came in."""

from __future__ import annotations

from dataclasses import dataclass

from palmette.chat.message import Message, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """That one of the tools `names` is called, as the request's `field` says."""

    names: tuple[str, ...]
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked of the model, e.g. ``Ask(messages=(Message(role="user", content="hi"),))``.

    `max_tokens` bounds this answer, and it ends before the first of the strings `stop`. Temperature, top_p, top_k and
    seed are what the agent would like; only a session opened with `honour_sampling` heeds them. With a `demand`
    the answer has to begin with a call. `prompt_ids` is the
    prompt itself, of one who tokenises on their own (`messages` is then empty); it may end at `stop_ids`, and `scored`
    asks for the prompt's log-probs too.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    demand: Demand | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    prompt_ids: tuple[int, ...] | None = None
    stop_ids: tuple[int, ...] = ()
    scored: bool = False
