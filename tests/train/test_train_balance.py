"""Work is split evenly, trees stay whole, and workers together compute the gradient of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from palmette.train.balance import Cost, imbalance, split
from palmette.train.samples import Sample, Totals, from_demonstration
from palmette.train.sft import Likelihood
from palmette.train.step import gradients

_TOKENS = Cost(token=1.0, pair=0.0)
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}


def _sample(tokens: list[int]) -> Sample:
    return from_demonstration(tokens, [False] + [True] * (len(tokens) - 1))


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_sample_has_one_worker_and_groups_stay_whole(groups: list[int], workers: int, random) -> None:
    samples = [_sample([random.randrange(9) for _ in range(random.randrange(1, 12))]) for _ in groups]
    shares = split(samples, groups, workers, Cost(token=3.0, pair=0.5))
    assert sorted(i for share in shares for i in share) == list(range(len(groups)))
    assert len(shares) == workers
    for group in set(groups):
        assert sum(any(groups[i] == group for i in share) for share in shares) == 1


def test_shared_tokens_cost_once_and_depth_costs() -> None:
    twice = [_sample([1, 2, 3, 4]), _sample([1, 2, 3, 5])]
    assert _TOKENS.tree(twice) == 5
    assert Cost(token=0.0, pair=1.0).tree(twice) == 1 + 2 + 3 + 4 + 4


def test_loads_are_even() -> None:
    rng = np.random.default_rng(0)
    samples = [_sample(rng.integers(0, 99, length).tolist()) for length in rng.integers(5, 60, 40)]
    shares = split(samples, list(range(40)), 4, _TOKENS)
    assert imbalance([_TOKENS.tree([samples[i] for i in share]) for share in shares]) < 0.02
    assert imbalance([3.0, 1.0]) == 0.5


def test_costs_follow_the_model() -> None:
    config = LlamaConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    assert Cost.of(config, 1000) == Cost(token=2000.0, pair=4.0 * 3 * 4 * 16)


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        split([], [], 0, _TOKENS)


def _job() -> tuple[list[Sample], list[int], PreTrainedModel]:
    rng = np.random.default_rng(3)
    samples, groups = [], []
    for group in range(5):
        stem = rng.integers(0, 32, 10).tolist()
        for _ in range(3):
            samples.append(_sample(stem + rng.integers(0, 32, int(rng.integers(2, 9))).tolist()))
            groups.append(group)
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    return samples, groups, AutoModelForCausalLM.from_config(shape).eval()


def _flat_gradient(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _worker(rank: int, workers: int, meeting: str, result: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    samples, groups, model = _job()
    mine = split(samples, groups, workers, _TOKENS)[rank]
    gradients(
        model,
        [samples[i] for i in mine],
        Likelihood(),
        token_budget=30,
        totals=Totals.of(samples),
    )
    gradient = _flat_gradient(model)
    dist.all_reduce(gradient)
    if rank == 0:
        torch.save(gradient, result)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_sum_to_one(tmp_path: Path) -> None:
    command = [sys.executable, __file__, "2", str(tmp_path / "meeting"), str(tmp_path / "sum.pt")]
    workers = [subprocess.Popen([*command, str(rank)], env=os.environ | _LOOPBACK) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    samples, _, model = _job()
    gradients(model, samples, Likelihood(), token_budget=10**6)
    assert torch.allclose(torch.load(tmp_path / "sum.pt"), _flat_gradient(model), rtol=1e-4, atol=1e-7)


if __name__ == "__main__":  # one of the two processes
    _worker(int(sys.argv[4]), int(sys.argv[1]), sys.argv[2], sys.argv[3])
