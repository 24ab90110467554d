"""Stop strings over engines that stop at token ids: sample until the text holds one, and leave it at that.

What is exact here: the tokens that were sampled up to and including the one that completes the string are recorded as
they are, log-probs and all, and the next prompt goes on behind them. Only what the agent is *shown* ends before the
string. A string is looked for in the text as it was sampled, reasoning and calls included, as vLLM does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from palmette.chat.template import Renderer
from palmette.engine.api import Completion, Each, Engine, FinishReason, Sampling, StreamingEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where an answer was ended: the `text` before the stop string, and the `string`."""

    text: str
    string: str


async def sample_until(
    engine: Engine, prompt_ids: Sequence[int], sampling: Sampling, stops: Sequence[str], renderer: Renderer, each: Each
) -> tuple[Completion, Cut | None]:
    """Sample as `engine` does, but end with the token that completes one of `stops`; tell `each` those tokens.

    Raises what the engine raises. An engine that does not stream samples to its own end, and what lies behind the
    string is thrown away.
    """
    watch = _Watch(stops, renderer, each)
    if not isinstance(engine, StreamingEngine):
        done = await engine.complete(prompt_ids, sampling)
        for token, logprob in zip(done.token_ids, done.logprobs, strict=True):
            watch.take(token, logprob)
    else:
        sampled = asyncio.ensure_future(engine.stream(prompt_ids, sampling, watch.take))
        found = asyncio.ensure_future(watch.found.wait())
        try:
            await asyncio.wait((sampled, found), return_when=asyncio.FIRST_COMPLETED)
        finally:
            found.cancel()
            if watch.found.is_set() or not sampled.done():
                sampled.cancel()
                await asyncio.gather(sampled, return_exceptions=True)
        if not watch.found.is_set():
            return sampled.result(), None
        done = None
    if done is not None and not watch.found.is_set():
        return done, None
    completion = Completion(
        token_ids=tuple(watch.token_ids),
        logprobs=tuple(watch.logprobs),
        finish_reason=FinishReason.STOP,
        version=engine.version if done is None else done.version,  # weights change between completions only
    )
    return completion, watch.cut()


class _Watch:
    """Takes tokens until their text holds one of the strings."""

    def __init__(self, stops: Sequence[str], renderer: Renderer, each: Each) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.found = asyncio.Event()
        self._stops = stops
        self._renderer = renderer
        self._each = each
        self._window = 4 * max(map(len, stops)) + 4  # tokens: a character has four bytes at most, a token one at least

    def take(self, token: int, logprob: float) -> None:
        """Take the next token; those behind the string are nobody's."""
        if self.found.is_set():
            return
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        if any(stop in self._renderer.decode(self.token_ids[-self._window :]) for stop in self._stops):
            self.found.set()
        self._each(token, logprob)

    def cut(self) -> Cut:
        """Return the text before the string that comes first."""
        text = self._renderer.decode(self.token_ids)
        at, string = min((at, stop) for stop in self._stops if (at := text.find(stop)) >= 0)
        return Cut(text=text[:at], string=string)
