"""The live rows of an engine: admitted, fed one token a step, and taken out when their completion ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from palmette.engine.api import Completion, Each, EngineError, FinishReason, Sampling
from palmette.engine.forward import Forward
from palmette.engine.noise import Disturbance, Noise
from palmette.engine.prefix import BLOCK, PrefixCache
from palmette.engine.sample import Draws, draw

Reply = Callable[[Any], None]  # takes the answer, or the exception to raise instead


@dataclass(eq=False, slots=True, kw_only=True)
class Request:
    """A prompt waiting for its completion; `reply` is called once, on the engine's thread."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    seed: int
    stop_ids: frozenset[int]
    limit: int  # most tokens to sample, the context taken into account
    reply: Reply
    each: Each | None = None  # told every token as it is sampled, on the engine's thread
    cancelled: bool = False


@dataclass(eq=False, slots=True)
class _Row:
    request: Request
    ids: list[int]  # prompt and what was sampled; all but the newest token have keys and values
    logprobs: list[float] = field(default_factory=list)
    routes: list[np.ndarray] = field(default_factory=list)  # experts of those with keys and values, if recorded

    def routes_TLK(self) -> np.ndarray | None:
        """Return the experts of all tokens that have keys and values, kept in one piece."""
        if len(self.routes) > 1:
            self.routes = [np.concatenate(self.routes)]
        return self.routes[0] if self.routes else None


@dataclass(slots=True)
class Counts:
    """Tokens since the start: sampled, fed through the model as prompts, and found in the prefix cache instead."""

    sampled: int = 0
    prefilled: int = 0
    reused: int = 0
    steps: int = 0


class Batch:
    """At most `max_rows` live rows, fewer than `forward.slots` has, whose last scores long sequences. Not thread-safe.

    `chunk` is the most prompt tokens fed in one pass and `score_chunk` the most tokens scored in one; longer ones take
    several.
    """

    def __init__(
        self,
        forward: Forward,
        prefix: PrefixCache,
        *,
        max_rows: int,
        chunk: int,
        score_chunk: int,
        disturbance: Disturbance | None = None,
    ) -> None:
        assert max_rows < forward.slots.rows, "one row is kept for scoring"
        self.counts = Counts()
        self.score_chunk = score_chunk
        self._forward = forward
        self._prefix = prefix
        self._disturbance = disturbance or Disturbance(Noise())
        self._max_rows = max_rows
        self._chunk = chunk
        self._rows: list[_Row] = []
        self._ready = 0  # rows whose prompt has been fed; the others were admitted since the last step
        self._chains: dict[_Row, list[int]] = {}  # blocks of the prefix cache that begin an admitted row
        self._coming: set[Any] = set()  # first missing block of each admitted row
        self._new = 0  # prompt tokens of admitted rows that go through the model
        self._draws: Draws | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def admit(self, request: Request) -> bool:
        """Take the request into the next step, or say no for now.

        No when the rows or this step's prompt tokens are used up, and when another row is about to compute a prefix
        that this request shares: one step later it is read from the cache.
        """
        if len(self._rows) == self._max_rows:
            return False
        chain, missing = self._prefix.match(request.prompt_ids)
        new = len(request.prompt_ids) - len(chain) * BLOCK
        if missing in self._coming or (self._new and self._new + new > self._chunk):
            return False
        if missing is not None:
            self._coming.add(missing)
        row = _Row(request, list(request.prompt_ids))
        self._rows.append(row)
        self._chains[row] = chain
        self._new += new
        self._draws = None
        return True

    def step(self, version: int) -> None:
        """Sample one token for every row, and answer those that are done."""
        try:
            logits_RV = self._feed()
            ids_R, logprobs_R = draw(logits_RV, self._sampling(), self._sampled())
            logprobs_R = self._disturbance.told(logprobs_R)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            self.fail(EngineError(f"the forward pass failed: {error}"))
            self._prefix.clear()
            return
        self._rest()
        done: list[tuple[int, Completion | EngineError]] = []
        for index, (token, logprob) in enumerate(zip(ids_R.tolist(), logprobs_R.tolist(), strict=True)):
            row = self._rows[index]
            row.ids.append(token)
            row.logprobs.append(logprob)
            answer = _answer(row, version)
            if row.request.each is not None and not isinstance(answer, EngineError):
                row.request.each(token, logprob)
            if answer is not None:
                done.append((index, answer))
        self.counts.sampled += len(self._rows)
        self.counts.steps += 1
        # From the last row on, so that the row moved into a gap is one that stays.
        for index, answer in reversed(done):
            row = self._rows[index]
            if isinstance(answer, Completion):
                self._prefix.insert(row.ids[:-1], self._forward.slots, index, row.routes_TLK())
            self._remove(index)
            row.request.reply(answer)

    def drop_cancelled(self) -> None:
        """Take out the rows whose request was cancelled; the others do not notice."""
        for index in range(len(self._rows) - 1, -1, -1):
            if self._rows[index].request.cancelled:
                self._remove(index)

    def fail(self, error: EngineError) -> None:
        """Answer every row with the error."""
        rows, self._rows = self._rows, []
        self._rest()
        for row in rows:
            row.request.reply(error)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Return log p(token t | tokens before t), t = 1..T-1, of each sequence, at temperature 1 in float32."""
        if len(sequences) > 1 or len(sequences[0]) <= self.score_chunk:
            logits_NV = self._forward.spans(sequences)
            parts = logits_NV.split([len(sequence) for sequence in sequences])
            return [tuple(self._next(part, ids[1:])) for part, ids in zip(parts, sequences, strict=True)]
        (ids,), scores, spare = sequences, [], self._forward.slots.rows - 1
        for offset in range(0, len(ids) - 1, self.score_chunk):
            piece = ids[offset : offset + self.score_chunk]
            logits_SV = self._forward.extend(spare, piece, offset)
            scores.extend(self._next(logits_SV, ids[offset + 1 : offset + 1 + self.score_chunk]))
        return [tuple(scores)]

    def _next(self, logits_SV: torch.Tensor, next_ids: Sequence[int]) -> list[float]:
        logits_SV = logits_SV[: len(next_ids)]
        ids_S1 = torch.tensor(next_ids, dtype=torch.long, device=logits_SV.device)[:, None]
        return self._disturbance.told(torch.log_softmax(logits_SV, dim=-1).gather(1, ids_S1)[:, 0]).tolist()

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy the weights into the model and forget every prefix. Raises `EngineError`, having changed nothing."""
        assert not self._rows, "rows in flight finish under the weights they began with"
        own = self._forward.model.state_dict()
        _check_weights(own, weights, set(getattr(self._forward.model, "all_tied_weights_keys", {}) or {}))
        for name, tensor in weights.items():
            own[name].copy_(tensor)
        self._prefix.clear()

    def _feed(self) -> torch.Tensor:
        old = self._rows[: self._ready]
        fresh = []
        for index in range(self._ready, len(self._rows)):
            row = self._rows[index]
            start = self._recall(index)
            self.counts.prefilled += len(row.ids) - start
            while len(row.ids) - start > self._chunk:
                self._forward.step((), (), [(index, row.ids[start : start + self._chunk], start)])
                self._keep_routes([(row, self._chunk)])
                start += self._chunk
            fresh.append((index, row.ids[start:], start))
        logits, _ = self._forward.step([row.ids[-1] for row in old], [len(row.ids) - 1 for row in old], fresh)
        self._keep_routes([(row, 1) for row in old] + [(self._rows[index], len(ids)) for index, ids, _ in fresh])
        for index in range(self._ready, len(self._rows)):
            row = self._rows[index]
            self._prefix.insert(row.ids, self._forward.slots, index, row.routes_TLK())
        return logits

    def _keep_routes(self, fed: Sequence[tuple[_Row, int]]) -> None:
        """Give the rows of the last pass, in its order, the experts of as many tokens as each had in it."""
        routes_NLK = self._forward.routes_NLK()
        if routes_NLK is not None:
            parts = np.split(routes_NLK, np.cumsum([count for _, count in fed])[:-1])
            for (row, _), part in zip(fed, parts, strict=True):
                row.routes.append(part)

    def _recall(self, index: int) -> int:
        """Copy the cached beginning of an admitted row into its slot; return its length in tokens."""
        row = self._rows[index]
        chain = self._chains[row]
        if chain:
            self._forward.slots.reserve(len(chain) * BLOCK)
            self._prefix.read(chain, self._forward.slots, index)
            if self._forward.recorder is not None:
                row.routes.extend(self._prefix.routes(chain))
        self.counts.reused += len(chain) * BLOCK
        return len(chain) * BLOCK

    def _rest(self) -> None:
        """All rows are decoding now."""
        self._ready = len(self._rows)
        self._chains.clear()
        self._coming.clear()
        self._new = 0
        if not self._rows:
            self._draws = None

    def _remove(self, index: int) -> None:
        last = len(self._rows) - 1
        assert self._ready == len(self._rows), "rows leave only between steps, before others are admitted"
        if index != last:
            self._rows[index] = self._rows[last]
            self._forward.slots.move(last, index, len(self._rows[last].ids) - 1)
        self._rows.pop()
        self._ready = last
        self._draws = None

    def _sampling(self) -> Draws:
        if self._draws is None:
            requests = [row.request for row in self._rows]
            self._draws = Draws(
                temperature_R=np.array([r.sampling.temperature for r in requests], dtype=np.float64),
                top_p_R=np.array([r.sampling.top_p for r in requests], dtype=np.float64),
                top_k_R=np.array([r.sampling.top_k for r in requests], dtype=np.int64),
                seed_R=np.array([r.seed for r in requests], dtype=np.uint64),
            )
        return self._draws

    def _sampled(self) -> np.ndarray:
        return np.array([len(row.logprobs) for row in self._rows], dtype=np.int64)


def _answer(row: _Row, version: int) -> Completion | EngineError | None:
    if math.isnan(row.logprobs[-1]):
        return EngineError(f"weights of version {version} give NaN logits")
    stopped = row.ids[-1] in row.request.stop_ids
    if not stopped and len(row.logprobs) < row.request.limit:
        return None
    return Completion(
        token_ids=tuple(row.ids[len(row.request.prompt_ids) :]),
        logprobs=tuple(row.logprobs),
        finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
        version=version,
        routes_TLK=_with_last(row.routes_TLK()),
    )


def _with_last(routes_TLK: np.ndarray | None) -> np.ndarray | None:
    """Add the last token, which nobody has computed."""
    return None if routes_TLK is None else np.concatenate([routes_TLK, np.full_like(routes_TLK[:1], -1)])


def _check_weights(own: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], tied: set[str]) -> None:
    unknown = sorted(set(new) - set(own))
    missing = sorted(set(own) - set(new) - tied)
    odd = sorted(name for name, tensor in new.items() if not isinstance(tensor, torch.Tensor))
    wrong = sorted(name for name in set(own) & set(new) - set(odd) if own[name].shape != new[name].shape)
    faults = ((unknown, "unknown"), (missing, "missing"), (odd, "not tensors"), (wrong, "of another shape"))
    for names, what in faults:
        if names:
            raise EngineError(f"the weights do not fit the model: {len(names)} {what}, first {names[0]}")
