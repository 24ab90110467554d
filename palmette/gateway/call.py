"""One request under way: its tokens as they are sampled, its turn at the end, and who still waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from palmette.chat.message import Message
from palmette.engine.api import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answered request: what the engine saw, what it sampled, what that says, and its `leaf` in the tree.

    `scores` are log-probs of the prompt's tokens 1..T-1, where they were asked for.
    """

    id: str
    messages: tuple[Message, ...]
    prompt_ids: tuple[int, ...]
    completion: Completion
    answer: Message
    leaf: int
    scores: tuple[float, ...] | None = None


class Call:
    """Followed by whoever asked and by whoever asks the same again; when the last one leaves it is cancelled.

    `prompt_ids` are there as soon as a token is. `delivered` says whether somebody was told the whole answer.
    """

    def __init__(self) -> None:
        self.id = secrets.token_hex(12)
        self.prompt_ids: tuple[int, ...] = ()
        self.delivered = False
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._followers = 0
        self._task: asyncio.Task[Turn] | None = None
        self._moved = asyncio.Event()

    def start(self, answering: Coroutine[Any, Any, Turn]) -> asyncio.Task[Turn]:
        """Begin to answer; the task is returned for those who may have to cancel it."""
        self._task = asyncio.ensure_future(answering)
        self._task.add_done_callback(lambda _: self._move())
        return self._task

    def each(self, token_id: int, logprob: float) -> None:
        """Take the next sampled token."""
        self._token_ids.append(token_id)
        self._logprobs.append(logprob)
        self._move()

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Be one of those who wait for the answer."""
        assert self._task is not None
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._task.cancel()  # nothing happens to one that is done

    @property
    def answered_in_vain(self) -> bool:
        """Whether the answer is recorded and nobody was told all of it."""
        return self._recorded and not self.delivered

    async def turn(self) -> Turn:
        """Return the answer once it is recorded. Raises what answering raised, `CancelledError` if it was cancelled."""
        assert self._task is not None
        return await asyncio.shield(self._task)

    async def tokens(self) -> AsyncIterator[tuple[list[int], list[float]]]:
        """Yield ids and log-probs as they come, several at a time where they came so; all of them, from the first.

        Ends early where answering fails, which `turn` then tells.
        """
        assert self._task is not None
        at = 0
        while True:
            moved, done = self._moved, self._task.done()
            if self._recorded:
                completion = self._task.result().completion
                if at < len(completion.token_ids):
                    yield list(completion.token_ids[at:]), list(completion.logprobs[at:])
                return
            if at < len(self._token_ids):
                ids, logprobs = self._token_ids[at:], self._logprobs[at:]
                at += len(ids)
                yield ids, logprobs
            elif done:
                return
            else:
                await moved.wait()

    @property
    def _recorded(self) -> bool:
        task = self._task
        return task is not None and task.done() and not task.cancelled() and task.exception() is None

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
