"""Branches share what the trunk said and wrote, exactly and nothing more; what goes wrong in one stays in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.envs.grade import Verdict
from palmette.envs.services import Services
from palmette.errors import UserError
from palmette.gateway.session import turn_seed
from palmette.rollout.branch import branch
from palmette.rollout.outcomes import RULES, Outcome
from palmette.rollout.run import Rollout, run_rollout, sample_seed
from palmette.sandbox.api import Sandbox
from palmette.scaffolds.api import NOTHING, Endpoint, Offer, Stop
from palmette.trajectory.trie import build

OpenBench = Callable[..., Any]
SAMPLING = Sampling(max_tokens=400, seed=7)
BOTH_HOSTS = pytest.mark.parametrize("host", ["fake", pytest.param("namespace", marks=pytest.mark.slow)])


class Listing:
    """A grader that keeps what lies in each end state's work directory, in the order of the names."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.seen: list[list[str]] = []

    async def grade(self, task: Task, sandbox: Sandbox, services: Services | None = None) -> Verdict:
        self.seen.append((await sandbox.exec("ls")).stdout.decode().split())
        return await self._inner.grade(task, sandbox, services)


def parts(bench: Any) -> dict[str, Any]:
    return {"scaffold": bench.scaffold, "gateway": bench.gateway, "host": bench.host, "grader": bench.grader}


async def grow(bench: Any, fault: str, *, at_turn: int = 1, n: int = 4, **changes: Any) -> list[Rollout]:
    (task,) = bench.tasks(fault)
    task = replace(task, **changes)
    return await branch(task, at_turn=at_turn, n=n, group=3, sampling=SAMPLING, **parts(bench))


def said(rollout: Rollout) -> list[Any]:
    return [(message["content"], message.get("tool_calls")) for message in rollout.conversation]


def second_seeds(n: int) -> list[int]:
    """Seeds of the branches' first own turn, the second of the rollout."""
    seeds = [sample_seed(7, 3, sample) for sample in range(n)]
    return [turn_seed(seed, 1) for seed in seeds if seed is not None]


@BOTH_HOSTS
async def test_branches_share_the_trunks_files_and_tokens_and_part_from_there(open_bench: OpenBench, host: str):
    async with open_bench(host) as bench:
        bench.grader = Listing(bench.grader)
        rollouts = await grow(bench, "seeded", n=4)
        if rollouts[0].outcome is Outcome.SANDBOX_START:
            pytest.skip(rollouts[0].detail)
    seeds = second_seeds(4)
    assert sorted(bench.grader.seen) == sorted(["answer.txt", f"branch-{seed}.txt", "trunk.txt"] for seed in seeds)
    assert [r.sample for r in rollouts] == [0, 1, 2, 3]
    assert {(r.outcome, r.group, r.turns, r.attempt) for r in rollouts} == {(Outcome.OK, 3, 3, 1)}
    rewards = [r.reward for r in rollouts]
    assert rewards == [float(seed % 2 == 0) for seed in seeds]
    assert set(rewards) == {0.0, 1.0}

    first, *others = bench.engine.calls
    fork_ids = others[0]  # the prompt of the first turn after the fork: all that is common for sure
    assert len(bench.engine.calls) == 1 + 2 * 4  # the trunk is asked for once
    assert [call for call in others if len(call) == len(fork_ids)] == [fork_ids] * 4
    branches = [rollout.tree.branches() for rollout in rollouts]
    assert all(len(own) == 1 for own in branches)
    ids = [own[0].token_ids for own in branches]
    for (own,), rollout in zip(branches, rollouts, strict=True):
        assert tuple(own.token_ids[: len(fork_ids)]) == fork_ids
        assert own.sampled[: len(fork_ids)].tolist() == branches[0][0].sampled[: len(fork_ids)].tolist()
        assert own.logprob[: len(fork_ids)].tolist() == branches[0][0].logprob[: len(fork_ids)].tolist()
        assert rollout.sampled_tokens == int(own.sampled.sum())
        assert own.turns[0][0] == len(first)
    trie = build(ids)
    assert trie.num_unique == len({tuple(own[: end + 1]) for own in ids for end in range(len(own))})
    assert trie.num_flat - trie.num_unique >= 3 * len(fork_ids)


@pytest.mark.parametrize("at_turn", [0, 1, 2])
@pytest.mark.parametrize("fault", ["seeded", "right", "wrong", "talks-right", "endless", "hungry", "second-nothing"])
async def test_branch_0_is_what_sample_0_would_have_been(open_bench: OpenBench, fault: str, at_turn: int):
    async with open_bench() as bench:
        (task,) = bench.tasks(fault)
        plain = await run_rollout(task, group=3, sample=0, sampling=SAMPLING, **parts(bench))
        seeds, bench.engine.seeds = list(bench.engine.seeds), []
        first, *others = await grow(bench, fault, at_turn=at_turn, n=2)
    assert (first.outcome, first.reward, first.turns) == (plain.outcome, plain.reward, plain.turns)
    assert first.detail == plain.detail
    assert first.conversation == plain.conversation
    (mine,), (theirs,) = first.tree.branches(), plain.tree.branches()
    assert mine.token_ids.tolist() == theirs.token_ids.tolist()
    assert np.array_equal(mine.sampled, theirs.sampled)
    assert mine.turns == theirs.turns
    assert set(seeds) <= set(bench.engine.seeds)
    assert len(others) == (plain.turns > at_turn)  # else the trunk was all
    if others:
        assert len(set(bench.engine.seeds)) == at_turn + 2 * (plain.turns - at_turn)


@pytest.mark.parametrize(
    ("fault", "outcome", "reward"),
    [
        ("second-lost", Outcome.SANDBOX_LOST, None),
        ("second-lost-grading", Outcome.SANDBOX_LOST, None),
        ("second-start", Outcome.SANDBOX_START, None),
        ("second-tampers", Outcome.POLICY_VIOLATION, 0.0),
    ],
)
async def test_a_branch_that_fails_fails_alone(open_bench: OpenBench, fault: str, outcome: Outcome, reward: Any):
    async with open_bench() as bench:
        rollouts = await grow(bench, fault, n=4)
    failed = [r for r in rollouts if r.outcome is not Outcome.OK]
    assert [(r.outcome, r.reward) for r in failed] == [(outcome, reward)]
    assert [r.sample for r in rollouts] == [0, 1, 2, 3]
    good = [(r.sample, r.reward) for r in rollouts if r.outcome is Outcome.OK]
    assert good == [(s, float(seed % 2 == 0)) for s, seed in enumerate(second_seeds(4)) if s != failed[0].sample]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("start", Outcome.SANDBOX_START),
        ("prepare", Outcome.SANDBOX_START),
        ("lost", Outcome.SANDBOX_LOST),
        ("engine", Outcome.ENGINE_ERROR),
        ("busy", Outcome.SANDBOX_LOST),
        ("no-room", Outcome.CONTEXT_EXHAUSTED),
    ],
)
async def test_a_trunk_that_fails_is_one_rollout(open_bench: OpenBench, fault: str, outcome: Outcome):
    async with open_bench() as bench:
        (rollout,) = await grow(bench, fault)
    assert (rollout.outcome, rollout.sample) == (outcome, 0)
    assert RULES[outcome].trust_reward == (rollout.reward is not None)


@pytest.mark.parametrize(("fault", "at_turn"), [("right", 2), ("right", 9), ("endless", 3), ("talks", 1)])
async def test_a_trunk_that_ends_first_is_one_rollout(open_bench: OpenBench, fault: str, at_turn: int):
    async with open_bench() as bench:
        (rollout,) = await grow(bench, fault, at_turn=at_turn)
    assert rollout.outcome is {"right": Outcome.OK, "endless": Outcome.TURN_LIMIT, "talks": Outcome.GAVE_UP}[fault]
    assert rollout.reward == float(fault == "right")
    assert bench.host.started == 1


async def test_branches_have_what_the_trunk_left_of_the_time(open_bench: OpenBench):
    async with open_bench() as bench:
        bench.engine.slow_s = 0.5  # three turns take 1.5 s, two of them less than the task's time
        rollouts = await grow(bench, "seeded", n=2, agent_timeout_s=1.3)
    assert {r.outcome for r in rollouts} == {Outcome.TURN_LIMIT}
    assert all(r.detail.startswith("out of time") for r in rollouts)
    assert all(1.3 <= r.wall_s < 6.0 for r in rollouts)  # the trunk's time is in it


@pytest.mark.parametrize("fault", ["slow", "later-slow"])
@BOTH_HOSTS
async def test_cancelling_leaves_nothing(open_bench: OpenBench, fault: str, host: str):
    async with open_bench(host) as bench:
        running = asyncio.ensure_future(grow(bench, fault, n=3, agent_timeout_s=60.0))
        waiting = 1 if fault == "slow" else 3
        while not (running.done() or (bench.engine.under_way == waiting and len(bench.host.open) == waiting)):
            await asyncio.sleep(0.01)
        if running.done():
            pytest.skip(running.result()[0].detail)
        assert bench.host.snapshots == (fault == "later-slow")
        assert len(bench.gateway._sessions) == waiting + bench.host.snapshots
        before_s = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert bench.host.open == set()  # closed before the cancellation came out
        assert bench.host._inner._sandboxes == {}
        assert time.monotonic() - before_s < 4.0


@pytest.mark.slow
async def test_cancelling_at_any_moment_leaves_nothing(open_bench: OpenBench):
    async with open_bench("namespace") as bench:
        (first, *_) = await grow(bench, "seeded", n=3)
        if first.outcome is Outcome.SANDBOX_START:
            pytest.skip(first.detail)
        for part in range(20):
            running = asyncio.ensure_future(grow(bench, "seeded", n=3))
            await asyncio.wait([running], timeout=first.wall_s * part / 15)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert bench.host._inner._sandboxes == {}
            assert (bench.host.snapshots, bench.gateway._sessions) == (0, {})


async def test_a_pool_branches_groups_and_a_lost_branch_goes_on_from_the_trunk_again(open_bench: OpenBench):
    async with open_bench() as bench:
        tasks = bench.tasks("second-lost", "right", "talks")
        options = {"samples": 3, "sampling": SAMPLING}
        smooth = await bench.pool().run(bench.tasks("second-nothing"), branch_at=1, **options)
        bench.engine.calls.clear()
        branched = await bench.pool(retries=1).run(tasks, branch_at=1, **options)
        asked = len(bench.engine.calls)
        plain = await bench.pool().run(tasks[1:], **options)
    assert [(r.group, r.sample) for r in branched] == [(group, sample) for group in range(3) for sample in range(3)]
    assert sorted(r.attempt for r in branched[:3]) == [1, 1, 2]
    for one, other in zip(smooth, branched[:3], strict=True):  # failures change no result
        assert (one.outcome, one.reward) == (other.outcome, other.reward) == (Outcome.OK, other.reward)
        assert said(one)[2:] == said(other)[2:]  # all but the task's own name
    for one, other in zip(plain, branched[3:], strict=True):
        assert (one.outcome, one.reward, one.turns) == (other.outcome, other.reward, other.turns)
    # the lost branch had asked once; a group whose trunk ends in its first turn is attempted three times from there
    assert asked == (1 + 3 * 2 + 1) + (1 + 3) + 3


async def test_stopping_a_pool_calls_branches_and_trunks_off(open_bench: OpenBench):
    async with open_bench() as bench:
        tasks = [replace(task, agent_timeout_s=60.0) for task in bench.tasks("right", "later-slow", "slow")]
        pool, seen = bench.pool(concurrency=3), []
        running = asyncio.ensure_future(pool.run(tasks, samples=2, sampling=SAMPLING, on_done=seen.append, branch_at=1))
        while len(seen) < 2 or bench.engine.under_way < 3:
            await asyncio.sleep(0.01)
        pool.stop()
        rollouts = await running
    assert [r.outcome for r in rollouts] == [*[Outcome.OK] * 2, *[Outcome.CANCELLED] * 4]
    assert len(seen) == 6


async def test_a_pool_refuses_what_cannot_branch(open_bench: OpenBench):
    async with open_bench() as bench:
        with pytest.raises(ValueError, match="at_turn"):
            await bench.pool().run(bench.tasks("right"), samples=2, sampling=SAMPLING, branch_at=-1)
        pool = bench.pool(host=_Stiff(bench.host))
        with pytest.raises(UserError, match="host 'stiff' cannot fork"):
            await pool.run(bench.tasks("right", "slow"), samples=2, sampling=SAMPLING, branch_at=1)


async def test_what_cannot_branch_is_refused_in_one_line(open_bench: OpenBench):
    class Straight:
        name = "straight"

        async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint, *, offer: Offer = NOTHING) -> Stop:
            raise AssertionError("never run")

    async with open_bench() as bench:
        scaffold, host = bench.scaffold, bench.host
        bench.scaffold = Straight()
        with pytest.raises(UserError, match=r"^scaffold 'straight' cannot pause[^\n]*$"):
            await grow(bench, "right")
        assert host.started == 0
        bench.scaffold, bench.host = scaffold, _Stiff(host)
        with pytest.raises(UserError, match=r"^host 'stiff' cannot fork[^\n]*$"):
            await grow(bench, "right")
        assert host.open == set()
        assert bench.engine.calls == []  # before the model is asked
        bench.host = host
        for wrong in ({"n": 0}, {"at_turn": -1}):
            with pytest.raises(ValueError, match="at least"):
                await grow(bench, "right", **wrong)


class _Stiff:
    """A host whose sandboxes cannot be forked."""

    name = "stiff"

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def start(self, spec: Any) -> Any:
        return _Plain(await self._inner.start(spec))


class _Plain:
    """What every sandbox has, and nothing besides."""

    def __init__(self, inner: Any) -> None:
        for name in ("id", "gateway_url", "exec", "upload", "download", "read", "write", "close"):
            setattr(self, name, getattr(inner, name))
