"""A training stage that may be interrupted at any moment: its weights, optimiser, random state and position."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zlib import crc32

import numpy as np

from palmette.run import RunDir
from palmette.train import checkpoint
from palmette.train.check import speed_up, tolerance, tree_error
from palmette.train.checkpoint import Position
from palmette.train.config import TrainConfig
from palmette.train.optim import OptimConfig, Optimiser
from palmette.train.samples import Sample
from palmette.train.step import Objective, train_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")
_LOG = logging.getLogger("palmette.train")


class Stage:
    """One stage of a run that trains `model`; goes on from its last checkpoint if there is one.

    `step` steps are done; everything random comes from the run's seed and the stage's name, so an interrupted stage
    ends with the weights of one that was not.
    """

    def __init__(
        self,
        run: RunDir,
        name: str,
        model: PreTrainedModel,
        config: OptimConfig,
        *,
        updates: int,
        seed: int,
        checkpoint_every: int,
        way: TrainConfig | None = None,
    ) -> None:
        self.run, self.name, self.model = run, name, model
        self._way = way or TrainConfig()
        self._tree = self._way.tree == "on"
        self._checked = False
        self.optimiser = Optimiser(model, config, max(updates, 1))
        self.seed = crc32(f"{seed}/{name}".encode())
        self.generator = np.random.default_rng(self.seed)
        self._every = checkpoint_every
        self._folder = run.path / "checkpoints" / name
        self._position = Position(step=0, version=0)
        self._saved = -1
        self._started_s = time.monotonic()
        # One thread for all heavy work: every further one would keep its own freed memory and its own torch threads.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="palmette-train")
        if found := checkpoint.latest(self._folder):
            self._position = checkpoint.load(found, model, self.optimiser, self.generator)
            self._saved = self._position.step
            if (proven := self._position.extra.get("tree")) is not None:  # scores must not change with an interruption
                self._checked, self._tree = True, self._tree and bool(proven)

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return self._position.step

    @property
    def tree(self) -> bool:
        """Whether samples are computed as the tree they make: as asked, once the stage has checked that it may."""
        return self._tree and self._checked

    @property
    def version(self) -> int:
        """Weight version that the finished steps led to, 0 before the first."""
        return self._position.version

    @property
    def store_offset(self) -> int:
        """Records of the tree store that belong to the finished steps."""
        return self._position.store_offset

    @property
    def seconds(self) -> float:
        """Seconds that this stage took, over all attempts, as far as checkpoints tell."""
        return self._position.extra.get("seconds", 0.0) + time.monotonic() - self._started_s

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Save the finished steps when what runs inside is done or cancelled; closes the stage's thread."""
        try:
            yield
        except asyncio.CancelledError:
            self._thread.shutdown()  # waits: weights and position must agree
            self._save()
            raise
        else:
            self._save()
        finally:
            self._thread.shutdown(wait=False)

    async def advance(
        self,
        parts: Callable[[np.random.Generator], Sequence[Sequence[Sample]]],
        objective: Objective,
        *,
        token_budget: int,
        numbers: Mapping[str, float | None] | None = None,
        version: int = 0,
        store_offset: int = 0,
    ) -> dict[str, Any]:
        """Do one step in a thread: an update for each part that has samples.

        Logs and returns `numbers` with the mean of the updates' metrics. A cancellation waits for the step to end, so
        weights, position and log always agree. The first step of a stage checks that training on trees gives this
        model's own gradient, and goes on without trees if not.
        """

        def work() -> dict[str, Any]:
            given = [part for part in parts(self.generator) if part]
            checks = self._check(given[0], objective, token_budget) if given and not self._checked else {}
            rows = [
                train_step(
                    self.model,
                    self.optimiser,
                    part,
                    objective,
                    token_budget=token_budget,
                    tree=self.tree,
                    recompute=self._way.recompute,
                    load_balance=self._way.load_balance,
                    entropy=True,
                )
                for part in given
            ]
            self._position = Position(
                step=self.step + 1, version=version, store_offset=store_offset, extra=self._position.extra
            )
            row = {**(numbers or {}), **_mean(rows), **checks}
            self.run.metrics(self.name, self.step, **row)
            return row

        row = await self.work(work)
        if self.step % self._every == 0:
            self._save()
        return row

    async def work(self, heavy: Callable[[], Result]) -> Result:
        """Run `heavy` in the stage's thread; if the caller is cancelled, wait for it before the cancellation leaves."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, heavy)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    def _check(self, samples: Sequence[Sample], objective: Objective, token_budget: int) -> dict[str, float]:
        """Compare tree and flat gradients of a few samples; return what was found as metrics."""
        self._checked = True
        if not self._tree:
            return {}
        error = tree_error(self.model, samples, objective)
        if not error <= tolerance(self.model):
            self._tree = False
            _LOG.warning(
                "%s: gradients over trees differ from those of %s itself (relative error %.1e, allowed %.0e); training "
                "goes on without trees, slower; set train.tree = off to skip this check",
                self.name,
                type(self.model).__name__,
                error,
                tolerance(self.model),
            )
            return {"tree_error": error}
        measured = {"tree_error": error}
        if self._way.measure:
            measured["tree_speedup"] = speed_up(self.model, samples, objective, token_budget)
        return measured

    def _save(self) -> None:
        if self._saved == self.step:
            return
        seconds = self.seconds
        position = Position(
            step=self.step,
            version=self._position.version,
            store_offset=self._position.store_offset,
            extra={"seconds": seconds} | ({"tree": float(self._tree)} if self._checked else {}),
        )
        checkpoint.save(self._folder, self.model, self.optimiser, self.generator, position)
        self._position, self._started_s, self._saved = position, time.monotonic(), self.step


def order(seed: int, count: int, start: int, size: int) -> list[int]:
    """Return items `start` .. `start + size` of an endless sequence of shuffles of range(count).

    Depends on nothing but its arguments: step k of a stage asks for ``order(seed, n, k * size, size)``.
    """
    if count < 1:
        raise ValueError("nothing to put in order")
    shuffles: dict[int, np.ndarray] = {}
    chosen: list[int] = []
    for place in range(start, start + size):
        epoch, index = divmod(place, count)
        if epoch not in shuffles:
            shuffles[epoch] = np.random.default_rng([seed, epoch]).permutation(count)
        chosen.append(int(shuffles[epoch][index]))
    return chosen


def model_dir(run: RunDir, name: str) -> Path:
    """Return where a run keeps the model `name`, e.g. ``models/expert-swe``, as an ordinary model directory."""
    return run.path / "models" / name


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row.get(name, 0.0) for row in rows) / len(rows) for name in names}
