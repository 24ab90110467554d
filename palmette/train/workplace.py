"""Where a run's agents work: engine, gateway, sandboxes, grader and pool, opened once and closed whatever happens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from palmette.chat.template import Renderer
from palmette.engine.api import Engine
from palmette.envs.grade import Grader
from palmette.gateway.app import Gateway
from palmette.model.load import resolve_model
from palmette.rollout.crew import Crew
from palmette.rollout.interrupted import interrupted
from palmette.rollout.pool import Pool
from palmette.rollout.record import save_rollouts
from palmette.rollout.run import Rollout
from palmette.run import RunDir
from palmette.sandbox.api import Host
from palmette.scaffolds.names import open_scaffold
from palmette.train.bands import Bands, remembered
from palmette.train.curriculum import CurriculumConfig
from palmette.train.serving import give, open_serving
from palmette.train.walls import open_walls
from palmette.trajectory.store import TreeStore

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from palmette.train.recipe import Recipe
    from palmette.train.stage import Stage


class Workplace:
    """Everything a rollout needs, and the store where rollouts are kept. Made by `open_workplace`."""

    def __init__(
        self,
        *,
        model_dir: Path,
        renderer: Renderer,
        engine: Engine,
        host: Host,
        grader: Grader,
        pool: Pool,
        crew: Crew,
        gateway: Gateway,
        store: TreeStore,
        max_tokens: int,
        curriculum: CurriculumConfig,
    ) -> None:
        self.model_dir, self.renderer, self.engine = model_dir, renderer, engine
        self.host, self.grader, self.pool, self.crew = host, grader, pool, crew
        self.max_tokens, self.curriculum = max_tokens, curriculum
        self._store, self.gateway = store, gateway
        self.recorded = len(store)

    async def serve(self, model: PreTrainedModel, *, after: int = 0) -> None:
        """Let the engine answer with the weights of `model` from now on, as the next version (past `after`).

        Raises `UserError` when a server elsewhere does not take them.
        """
        await give(self.engine, model, max(self.engine.version, after) + 1, self.renderer)

    def record(self, rollouts: Sequence[Rollout], **extra: str | int) -> None:
        """Keep rollouts in the run's tree store, with `extra` (stage, step, model) beside their own metadata."""
        save_rollouts(self._store, rollouts, **extra)
        self.recorded += len(rollouts)
        self.gateway.settle()  # nothing is asked any more of sessions that belong to these

    def bands(self, stage: Stage) -> Bands | None:
        """Return which tasks are worth a group of a stage, as far as it has come; None where all are."""
        if not self.curriculum.complexity:
            return None
        return remembered(self.curriculum, stage.seed, self._store, stage.name, stage.step)

    def find_again(self) -> None:
        """Keep what an attempt that was killed had sampled and not stored, as far as the gateway's journal has it."""
        sessions = list(self.gateway.sessions.values())
        found = [interrupted(session, number) for number, session in enumerate(sessions) if session.turns]
        for session in sessions:
            self.gateway.close_session(session.key)
        if found:
            self.record(found, stage="interrupted", step=0, model="")
        self.gateway.settle()


@asynccontextmanager
async def open_workplace(recipe: Recipe, run: RunDir) -> AsyncIterator[Workplace]:
    """Open what `recipe` names; closes it all in reverse, also after a failure half-way. Raises `UserError`."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # the run has its own
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    model_dir = resolve_model(recipe.model.path)
    renderer = Renderer.from_dir(model_dir)
    async with AsyncExitStack() as stack:
        host, verifiers = open_walls(recipe.sandbox)
        stack.push_async_callback(verifiers.close)
        engine = await open_serving(recipe, model_dir, renderer)
        stack.push_async_callback(engine.close)
        journal = run.path / "journal" if recipe.gateway.journal else None
        gateway = Gateway(
            engine,
            renderer,
            journal=journal,
            sync=recipe.gateway.sync,
            hold_closed=True,
            processes=recipe.gateway.processes,
        )
        await gateway.start()
        stack.push_async_callback(gateway.close)
        grader = Grader(verifiers)
        crew = Crew(recipe.agents, recipe.scaffold, open_scaffold)
        stack.push_async_callback(crew.aclose)
        place = Workplace(
            model_dir=model_dir,
            renderer=renderer,
            engine=engine,
            host=host,
            grader=grader,
            pool=Pool(
                gateway=gateway,
                host=host,
                grader=grader,
                scaffold=crew.named(recipe.scaffold),
                concurrency=recipe.concurrency,
            ),
            crew=crew,
            gateway=gateway,
            store=TreeStore(run.path / "trees"),
            max_tokens=recipe.max_tokens,
            curriculum=recipe.curriculum,
        )
        place.find_again()
        yield place
