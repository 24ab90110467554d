"""Whatever goes wrong: one outcome, no invented reward, order kept, nothing left open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palmette.engine.api import Sampling
from palmette.rollout.outcomes import RULES, Outcome
from palmette.rollout.run import Rollout, sample_seed
from palmette.scaffolds.api import Stop

OpenBench = Callable[[], Any]

# What a rollout of a task with this fault must come to.
EXPECTED: dict[str, tuple[Outcome, float | None]] = {
    "right": (Outcome.OK, 1.0),
    "wrong": (Outcome.OK, 0.0),
    "talks": (Outcome.GAVE_UP, 0.0),
    "talks-right": (Outcome.GAVE_UP, 1.0),
    "endless": (Outcome.TURN_LIMIT, 0.0),
    "slow": (Outcome.TURN_LIMIT, 0.0),
    "no-room": (Outcome.CONTEXT_EXHAUSTED, 0.0),
    "hungry": (Outcome.SANDBOX_OOM, 1.0),
    "hungry-but-submits": (Outcome.OK, 1.0),
    "engine": (Outcome.ENGINE_ERROR, None),
    "engine-bug": (Outcome.ENGINE_ERROR, None),
    "scaffold-bug": (Outcome.ENGINE_ERROR, None),
    "start": (Outcome.SANDBOX_START, None),
    "prepare": (Outcome.SANDBOX_START, None),
    "lost": (Outcome.SANDBOX_LOST, None),
    "lost-grading": (Outcome.SANDBOX_LOST, None),
    "verifier": (Outcome.VERIFIER_ERROR, None),
    "verifier-bug": (Outcome.VERIFIER_ERROR, None),
    "verifier-slow": (Outcome.VERIFIER_TIMEOUT, None),
    "tampers": (Outcome.POLICY_VIOLATION, 0.0),
}


def check_invariants(rollout: Rollout) -> None:
    rule = RULES[rollout.outcome]
    assert rule.trust_reward or rollout.reward is None
    assert rollout.sampled_tokens == rollout.tree.num_sampled
    assert sum("leaf" in message for message in rollout.conversation) == rollout.turns


@pytest.mark.parametrize("fault", EXPECTED)
async def test_every_fault_ends_in_its_outcome(open_bench: OpenBench, fault: str):
    async with open_bench() as bench:
        (rollout,) = await bench.pool().run(bench.tasks(fault), samples=1, sampling=Sampling())
    assert (rollout.outcome, rollout.reward) == EXPECTED[fault]
    assert rollout.detail
    check_invariants(rollout)


@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(st.sampled_from([name for name in EXPECTED if name != "slow"]), min_size=1, max_size=5),
    samples=st.integers(1, 3),
    concurrency=st.integers(1, 4),
    branch_at=st.sampled_from([None, 0, 1, 2]),
)
def test_any_mixture_of_faults_keeps_order_and_leaks_nothing(
    open_bench: OpenBench, faults: list[str], samples: int, concurrency: int, branch_at: int | None
):
    async def work() -> None:
        async with open_bench() as bench:
            tasks, seen = bench.tasks(*faults), []
            pool = bench.pool(concurrency=concurrency)
            rollouts = await pool.run(
                tasks, samples=samples, sampling=Sampling(seed=1), on_done=seen.append, branch_at=branch_at
            )
            places = [(group, sample) for group in range(len(tasks)) for sample in range(samples)]
            assert [(r.group, r.sample) for r in rollouts] == places
            assert [r.task for r in rollouts] == [tasks[group].name for group, _ in places]
            assert [(r.outcome, r.reward) for r in rollouts] == [EXPECTED[faults[group]] for group, _ in places]
            assert sorted(map(id, seen)) == sorted(map(id, rollouts))
            assert bench.host.most_open <= concurrency
            for rollout in rollouts:
                check_invariants(rollout)

    asyncio.run(work())


async def test_a_retry_changes_nothing_but_the_attempt(open_bench: OpenBench):
    async with open_bench() as bench:
        tasks = bench.tasks("right", "wrong")
        smooth = await bench.pool().run(tasks, samples=2, sampling=Sampling(seed=5))
        seeds, bench.engine.seeds = sorted(bench.engine.seeds), []
        bench.host.failing_starts.update({"rollout/t/0.right": 2, "rollout/t/1.wrong": 1})
        bumpy = await bench.pool(retries=2).run(tasks, samples=2, sampling=Sampling(seed=5))
    assert sum(rollout.attempt - 1 for rollout in bumpy) == 3
    assert sorted(bench.engine.seeds) == seeds
    for one, other in zip(smooth, bumpy, strict=True):
        assert (one.outcome, one.reward) == (other.outcome, other.reward)
        mine, theirs = one.tree.branches()[0], other.tree.branches()[0]
        assert mine.token_ids.tolist() == theirs.token_ids.tolist()
        assert mine.logprob.tolist() == theirs.logprob.tolist()


async def test_retries_end_and_the_agents_own_failures_are_not_retried(open_bench: OpenBench):
    async with open_bench() as bench:
        rollouts = await bench.pool(retries=2).run(bench.tasks("verifier", "endless"), samples=1, sampling=Sampling())
    assert [(r.outcome, r.attempt) for r in rollouts] == [(Outcome.VERIFIER_ERROR, 3), (Outcome.TURN_LIMIT, 1)]
    assert bench.host.started == 4  # each attempt in a sandbox of its own


async def test_cancelling_is_prompt_and_keeps_what_is_done(open_bench: OpenBench):
    async with open_bench() as bench:
        tasks, seen = bench.tasks("right", "slow", "slow", "slow"), []
        tasks[1:] = [replace(task, agent_timeout_s=60.0) for task in tasks[1:]]
        running = asyncio.ensure_future(
            bench.pool(concurrency=3).run(tasks, samples=1, sampling=Sampling(), on_done=seen.append)
        )
        while not seen or bench.engine.under_way < 3:
            await asyncio.sleep(0.01)
        before_s = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert bench.host.open == set()  # closed before the cancellation came out
        assert time.monotonic() - before_s < 2.0
    assert [rollout.task for rollout in seen] == ["t/0.right"]


async def test_stopping_returns_all_with_the_unfinished_called_off(open_bench: OpenBench):
    async with open_bench() as bench:
        tasks, seen = bench.tasks("right", "slow", "slow", "wrong"), []
        tasks[1:3] = [replace(task, agent_timeout_s=60.0) for task in tasks[1:3]]
        pool = bench.pool(concurrency=2)
        running = asyncio.ensure_future(pool.run(tasks, samples=1, sampling=Sampling(), on_done=seen.append))
        while bench.engine.under_way < 2 or not seen:
            await asyncio.sleep(0.01)
        pool.stop()
        rollouts = await running
    assert [r.outcome for r in rollouts] == [Outcome.OK, *[Outcome.CANCELLED] * 3]
    assert [r.reward for r in rollouts] == [1.0, None, None, None]
    assert len(seen) == 4


async def test_what_on_done_raises_ends_the_run(open_bench: OpenBench):
    def full(rollout: Rollout) -> None:
        raise OSError("disk full")

    async with open_bench() as bench:
        with pytest.raises(OSError, match="disk full"):
            await bench.pool().run(bench.tasks("right", "right"), samples=2, sampling=Sampling(), on_done=full)


async def test_an_agent_without_time_is_graded_on_what_it_left(open_bench: OpenBench):
    async with open_bench() as bench:
        (rollout,) = await bench.pool().run(bench.tasks("slow"), samples=1, sampling=Sampling())
    assert rollout.detail.startswith("out of time")
    assert 0.4 <= rollout.wall_s < 5.0


def test_seeds_differ_by_sample_and_do_not_depend_on_the_attempt():
    seeds = {sample_seed(7, group, sample) for group in range(20) for sample in range(20)}
    assert len(seeds) == 400
    assert all(seed is not None and 0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(7, 3, 4) == 3728520533994831354  # the documented formula: a change of it breaks old runs
    assert sample_seed(None, 0, 0) is None


def test_nonsense_is_refused(open_bench: OpenBench):
    async def work() -> None:
        async with open_bench() as bench:
            for wrong in ({"concurrency": 0}, {"retries": -1}):
                with pytest.raises(ValueError, match="concurrency"):
                    bench.pool(**wrong)
            assert await bench.pool().run([], samples=4, sampling=Sampling()) == []

    asyncio.run(work())


def test_stop_is_one_word_for_scaffold_and_gateway():
    from palmette.gateway.session import Failure

    assert {str(failure) for failure in Failure} <= {str(stop) for stop in Stop}
