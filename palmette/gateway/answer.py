"""How an answer has to begin, and what it says once it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson

from palmette.chat.message import Message
from palmette.chat.template import Renderer, TemplateRefused
from palmette.gateway import refusal
from palmette.gateway.ask import Demand
from palmette.gateway.fields import read_json


def forced_ids(demand: Demand | None, renderer: Renderer) -> list[int]:
    """Return the tokens with which the answer has to begin. Raises `Refusal`."""
    if demand is None:
        return []
    try:
        return renderer.call_opening(demand.names)
    except TemplateRefused as error:
        reason = str(error).removeprefix(f"{renderer.source}: ")
        raise refusal.malformed(demand.field, f"this model cannot be made to call a tool: {reason}.") from error


def readable(token_ids: Sequence[int], renderer: Renderer, text: str | None = None) -> Message:
    """Return what was sampled, or what of it is to be shown (`text`).

    Calls whose arguments not every agent could read back are told as malformed: JSON deeper than requests may be, and
    integers beyond 64 bits.
    """
    message = renderer.parse(token_ids) if text is None else renderer.parse_text(text)
    for call in message.tool_calls:
        try:
            readable = read_json(orjson.dumps(dict(call.arguments)), "arguments") == call.arguments
        except (TypeError, refusal.Refusal):
            readable = False
        if not readable:
            said = token_ids[:-1] if token_ids[-1] in renderer.stop_ids else token_ids
            reason = f"the arguments of {call.name} are nested too deeply or hold too large a number"
            raw = renderer.decode(said) if text is None else text
            return replace(message, content=raw, tool_calls=(), reasoning=None, malformed=reason)
    return message
