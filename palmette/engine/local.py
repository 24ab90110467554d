"""An engine in this process: any Hugging Face causal language model, batched continuously in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from palmette.engine.api import Completion, ContextExhausted, Each, EngineError, Sampling
from palmette.engine.batch import Batch, Reply, Request
from palmette.engine.fit import check_fit, context_of, prove_fit
from palmette.engine.forward import Forward
from palmette.engine.noise import Disturbance, Noise
from palmette.engine.prefix import PrefixCache

_PREFIX_BYTES = 256 << 20  # of keys and values, when `prefix_cache_tokens` is not given
_LOGIT_BYTES = 256 << 20  # of logits held at once while scoring
_CHUNK = {"cpu": 2048}  # prompt tokens in one pass; 8192 on accelerators


@dataclass(eq=False, slots=True)
class _Score:
    token_ids: tuple[int, ...]
    reply: Reply
    cancelled: bool = False


@dataclass(eq=False, slots=True)
class _Load:
    weights: Mapping[str, torch.Tensor]
    version: int
    reply: Reply
    cancelled: bool = False


class LocalEngine:
    """Implements `palmette.engine.api.Engine` over a model that it owns from now on (its weights change by `load`).

    `stop_ids` end every completion, in addition to a request's own. Rows join and leave between decoding steps; at
    most `max_batch` are live. Prompts are computed only where no cached prefix holds them: turns of one conversation
    and identical prompts of a group share theirs, up to `prefix_cache_tokens` (default: 256 MiB worth).

    `threads` is passed to `torch.set_num_threads`, which is one number for the whole process, trainer included (whoever
    sets it last wins); None leaves it alone. On a machine whose cores also run sandboxes, fewer threads than cores are
    faster than all of them. `noise` is for experiments: see `palmette.engine.noise`. With `record_routes` completions
    of a mixture of experts say which expert each token was sent to.

    Raises `UserError` for a model that cannot run exactly (see `palmette.engine.fit`).
    """

    def __init__(
        self,
        model: Any,
        *,
        stop_ids: Sequence[int],
        max_batch: int = 64,
        context_tokens: int | None = None,
        prefix_cache_tokens: int | None = None,
        threads: int | None = None,
        version: int = 0,
        noise: Noise | None = None,
        record_routes: bool = False,
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, not {max_batch}")
        if threads is not None:
            torch.set_num_threads(threads)
        self._context = min(context_tokens or context_of(model), context_of(model))
        check_fit(model, self._context)
        model.eval()
        self._forward = Forward(model, max(max_batch, 2) + 1)
        try:
            prove_fit(self._forward)
        except BaseException:
            self._forward.restore()
            raise
        if prefix_cache_tokens is None:
            prefix_cache_tokens = _PREFIX_BYTES // self._forward.slots.token_bytes()
        self._vocab = model.config.get_text_config().vocab_size
        self._prefix = PrefixCache(prefix_cache_tokens)
        chunk = _CHUNK.get(model.device.type, 8192)
        score_chunk = max(64, min(chunk, _LOGIT_BYTES // (4 * self._vocab)))
        self._disturbance = Disturbance(noise or Noise())
        self._recording = self._forward.recording if record_routes else contextlib.nullcontext
        with self._disturbance.on(model), self._recording():  # a model that does not fit is refused now
            pass
        self._batch = Batch(
            self._forward,
            self._prefix,
            max_rows=max_batch,
            chunk=chunk,
            score_chunk=score_chunk,
            disturbance=self._disturbance,
        )
        self._stop_ids = frozenset(stop_ids)
        self._version = version
        self._busy_s = 0.0
        self._queue: deque[Request | _Score | _Load] = deque()
        self._wake = threading.Condition()
        self._cancelled = False  # something in the queue or the batch was cancelled
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="palmette-engine", daemon=True)
        self._thread.start()

    @property
    def version(self) -> int:
        """Weight version that the next completion will carry."""
        return self._version

    @property
    def context_tokens(self) -> int:
        """Most tokens (prompt and completion together) of one sequence."""
        return self._context

    async def complete(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion. Raises `ContextExhausted`, `EngineError`, `ValueError` (ids not in vocabulary)."""
        return await self._complete(prompt_ids, sampling, None)

    async def stream(self, prompt_ids: Sequence[int], sampling: Sampling, each: Each) -> Completion:
        """Do as `complete` does, and tell `each` every token as it is sampled."""
        return await self._complete(prompt_ids, sampling, each)

    async def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """Return log p(token t | tokens before t) for t = 1..T-1 (T-1 numbers, temperature 1)."""
        ids = self._checked(token_ids, least=1)
        if len(ids) > self._context:
            raise ContextExhausted(f"the sequence has {len(ids)} tokens, the context {self._context}")
        return await self._ask(lambda reply, _: _Score(ids, reply))

    async def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Replace the weights: what was asked before finishes under the old ones, what is asked later waits.

        Every cached prefix is forgotten. Weights may miss tied parameters. Raises `EngineError` for weights that do
        not fit, and then keeps the old ones.
        """
        await self._ask(lambda reply, _: _Load(weights, version, reply))

    async def close(self) -> None:
        """Stop; requests still under way raise `EngineError`. The model gets its own attention back. Idempotent."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def stats(self) -> dict[str, float]:
        """Totals since the start (tokens, seconds), tokens per second of work, and what is live now."""
        counts, busy_s = self._batch.counts, self._busy_s
        return {
            "sampled_tokens": counts.sampled,
            "prefill_tokens": counts.prefilled,
            "cached_tokens": counts.reused,
            "steps": counts.steps,
            "busy_s": busy_s,
            "tokens_per_s": counts.sampled / busy_s if busy_s else 0.0,
            "live_rows": len(self._batch),
            "waiting": len(self._queue),
            "prefix_tokens": self._prefix.tokens,
        }

    async def _complete(self, prompt_ids: Sequence[int], sampling: Sampling, each: Each | None) -> Completion:
        prompt = self._checked(prompt_ids, least=1)
        if len(prompt) >= self._context:
            raise ContextExhausted(f"the prompt has {len(prompt)} tokens, the context {self._context}")
        if sampling.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {sampling.max_tokens}")
        seed = int.from_bytes(os.urandom(8)) if sampling.seed is None else sampling.seed
        return await self._ask(
            lambda reply, tell: Request(
                prompt_ids=prompt,
                sampling=sampling,
                seed=seed & (2**64 - 1),
                stop_ids=self._stop_ids | frozenset(sampling.stop_ids),
                limit=min(sampling.max_tokens, self._context - len(prompt)),
                reply=reply,
                each=tell,
            ),
            each,
        )

    def _checked(self, ids: Sequence[int], least: int) -> tuple[int, ...]:
        checked = tuple(map(int, ids))
        if len(checked) < least:
            raise ValueError("no token ids were given")
        if min(checked) < 0 or max(checked) >= self._vocab:
            raise ValueError(f"token ids must lie in 0..{self._vocab - 1}, the model's vocabulary")
        return checked

    async def _ask(self, make: Callable[[Reply, Each | None], Any], each: Each | None = None) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(answer: Any) -> None:
            if future.done():
                return
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        def reply(answer: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop that asked is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, answer)

        def told(token: int, logprob: float) -> None:
            if each is not None and not future.done():
                each(token, logprob)

        def tell(token: int, logprob: float) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(told, token, logprob)

        item = make(reply, tell if each is not None else None)
        with self._wake:
            if self._closed:
                raise EngineError("the engine is closed")
            self._queue.append(item)
            self._wake.notify()
        try:
            return await future
        except asyncio.CancelledError:
            with self._wake:
                item.cancelled = self._cancelled = True
                self._wake.notify()
            raise

    def _run(self) -> None:
        error = EngineError("the engine was closed")
        try:
            with torch.inference_mode(), self._disturbance.on(self._forward.model), self._recording():
                while self._work():
                    pass
        except BaseException as failure:
            error = EngineError(f"the engine stopped: {failure!r}")
            raise
        finally:
            with self._wake:
                self._closed = True
                left, self._queue = self._queue, deque()
            self._batch.fail(error)
            for item in left:
                item.reply(error)
            self._forward.restore()

    def _work(self) -> bool:
        """One round: sort out who comes and goes, then one decoding step. False once closed."""
        with self._wake:
            while not (self._queue or len(self._batch) or self._closed):
                self._wake.wait()
            if self._closed:
                return False
            began = time.perf_counter()
            if self._cancelled:
                self._cancelled = False
                self._queue = deque(item for item in self._queue if not item.cancelled)
                self._batch.drop_cancelled()
            loads, scores = self._take()
        for load in loads:
            self._apply(load)
        if scores:
            self._score(scores)
        if len(self._batch):
            self._batch.step(self._version)
        self._busy_s += time.perf_counter() - began
        return True

    def _take(self) -> tuple[list[_Load], list[_Score]]:
        """Admit what fits up to the next load; take that load only when nothing is left before it."""
        if self._queue and isinstance(self._queue[0], _Load):
            return ([], []) if len(self._batch) else ([self._queue.popleft()], [])  # type: ignore[list-item]
        kept: deque[Request | _Score | _Load] = deque()
        scores: list[_Score] = []
        room = self._batch.score_chunk
        while self._queue and not isinstance(self._queue[0], _Load):
            item = self._queue.popleft()
            if isinstance(item, Request):
                if not self._batch.admit(item):
                    kept.append(item)
                continue
            assert isinstance(item, _Score)
            if scores and len(item.token_ids) > room:
                kept.append(item)
            else:
                scores.append(item)
                room -= len(item.token_ids)
        kept.extend(self._queue)
        self._queue = kept
        return [], scores

    def _apply(self, load: _Load) -> None:
        try:
            self._batch.load(load.weights)
        except EngineError as error:
            load.reply(error)
        else:
            self._version = load.version
            load.reply(None)

    def _score(self, scores: list[_Score]) -> None:
        try:
            answers: Sequence[Any] = self._batch.score([item.token_ids for item in scores])
        except (RuntimeError, torch.OutOfMemoryError) as error:
            answers = [EngineError(f"scoring failed: {error}")] * len(scores)
        for item, answer in zip(scores, answers, strict=True):
            item.reply(answer)
