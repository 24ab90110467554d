"""What an engine is: six verbs that a local model, a remote server and a script all answer alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"  # the model emitted a stop token (which is the last of `token_ids`)
    LENGTH = "length"  # `max_tokens` or the context was used up


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn; `seed` makes one request reproducible whatever else is in its batch."""

    max_tokens: int = 256
    temperature: float = 1.0  # 0 means greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 means off
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()  # in addition to the model's own end-of-turn token


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the engine sampled, e.g. ``Completion(token_ids=(5, 2), logprobs=(-0.1, -0.0), ...)``.

    `logprobs_T` are natural logs under the model at temperature 1 without truncation, so that they can be compared
    with a training forward pass; one per sampled token. `version` is the weight version that sampled them.
    `routes_TLK`, where an engine records them, are the experts (int16) that each token of prompt and completion was
    sent to in L layers, K of them; -1 for tokens that were not computed, as the last one.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    version: int
    routes_TLK: np.ndarray | None = field(default=None, compare=False)


Each = Callable[[int, float], None]  # takes a token id and its log-prob, in the event loop that asked


class EngineError(Exception):
    """The engine failed to answer: an infrastructure failure, never a reward."""


class ContextExhausted(EngineError):
    """The prompt leaves no room for a completion in the model's context."""


@runtime_checkable
class Engine(Protocol):
    """Six verbs; all ids are Python ints of the model's own vocabulary."""

    @property
    def version(self) -> int:
        """Weight version that the next completion will carry."""
        ...

    @property
    def context_tokens(self) -> int:
        """Most tokens (prompt and completion together) of one sequence."""
        ...

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion; cancelling the task cancels it. Raises `ContextExhausted`, `EngineError`."""
        ...

    async def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """Return log p(token t | tokens before t) for t = 1..T-1 (T-1 numbers, temperature 1)."""
        ...

    async def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Replace the weights between completions; forgets every cached prefix of the old ones."""
        ...

    async def close(self) -> None:
        """Stop; requests still under way raise `EngineError`. Idempotent."""
        ...


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine that can also tell tokens while it samples them; an engine without this is still an `Engine`."""

    async def stream(self, prompt_ids: Sequence[int], sampling: Sampling, each: Each) -> Completion:
        """Do as `complete` does, and call `each` once for every token as it is sampled, in order, before returning.

        After a cancellation `each` is not called any more; after an `EngineError` what it was told counts for nothing.
        """
        ...
