"""The rollouts of one step: groups of a few tasks, more of them where a group says nothing, scored again meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.progress import Progress
from palmette.rollout.run import Rollout
from palmette.train.bands import Bands
from palmette.train.credit import group_credit
from palmette.train.curriculum import plan
from palmette.train.draws import Draws
from palmette.train.policy import OnPolicyConfig
from palmette.train.samples import from_tree
from palmette.train.stage import Stage, order
from palmette.train.workplace import Workplace


async def explore(
    stage: Stage,
    place: Workplace,
    tasks: Sequence[Task],
    config: OnPolicyConfig,
    bar: Progress,
    draws: Draws,
    bands: Bands | None = None,
) -> tuple[list[Rollout], float]:
    """Return the rollouts of the next step and the tokens sampled a second; they depend on seed and step alone.

    Groups without signal (all rewards equal: nothing to learn from) are replaced by groups of other tasks, as many
    times as `config.resample` says (DAPO's dynamic sampling, arXiv 2503.14476, bounded); they stay in the record.
    Where log-probs are to be drawn by the engine, a group is drawn as soon as it is whole. `bands` choose the tasks, if
    given, and learn from what came of them; otherwise all have their turn.
    """
    start_s = time.monotonic()
    sampling = Sampling(
        max_tokens=place.max_tokens, temperature=config.temperature, seed=stage.seed * 1_000_003 + stage.step
    )
    early = config.drawn and config.draws.engine == "inference"
    rollouts: list[Rollout] = []
    wanted, start = config.groups, stage.step * config.groups
    for turn in range(config.resample + 1):
        seed = stage.seed + turn * 7_919  # other tasks than those of the steps to come
        if bands is None:
            chosen = [tasks[i] for i in order(seed, len(tasks), start, wanted)]
        else:
            had = {rollout.task for rollout in rollouts}
            chosen = bands.choose(tasks, step=stage.step + 1, count=wanted, turn=turn, but=had)
        on_done = _watch(chosen, len(rollouts) // config.samples, config, bar, draws if early else None)
        found = await place.pool.run(
            chosen,
            samples=config.samples,
            sampling=replace(sampling, seed=(sampling.seed or 0) + turn * 15_485_863),
            on_done=on_done,
            branch_at=config.branch_at,
            casting=plan(place.curriculum, place.crew, start=start, samples=config.samples),
        )
        first = len(rollouts) // config.samples
        rollouts += [replace(rollout, group=rollout.group + first) for rollout in found]
        wanted = silent_groups(found, config)
        if not wanted:
            break
    if bands is not None:
        bands.learn(stage.step + 1, rollouts)
    return rollouts, sum(r.sampled_tokens for r in rollouts) / max(time.monotonic() - start_s, 1e-9)


def silent_groups(rollouts: Sequence[Rollout], config: OnPolicyConfig) -> int:
    """Return how many groups have no advantage for anybody."""
    groups = {rollout.group for rollout in rollouts}
    return round(group_credit(rollouts, config.baseline).silent_share * len(groups))


def _watch(
    chosen: Sequence[Task], before: int, config: OnPolicyConfig, bar: Progress, draws: Draws | None
) -> Callable[[Rollout], None]:
    """Return what is called with each rollout that is done: progress, and draws of groups that are whole."""
    total, done = (before + len(chosen)) * config.samples, before * config.samples
    members: dict[int, list[Rollout]] = {}

    def on_done(rollout: Rollout) -> None:
        nonlocal done
        done += 1
        bar.update(0, tokens=rollout.sampled_tokens, rollouts=f"{done}/{total}")
        group = members.setdefault(rollout.group, [])
        group.append(rollout)
        if draws is not None and len(group) == config.samples:
            credit = group_credit(group, config.baseline)
            said = zip(group, credit.advantage_R, credit.trainable_R, strict=True)
            draws.begin([s for r, a, trainable in said if trainable and a for s in from_tree(r.tree)])

    return on_done
