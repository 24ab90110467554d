"""Parts of a cut tree: each computed once, inside its parent's, and no more than a path of them alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from palmette.model.relay import Relay
from palmette.train import pack
from palmette.train.forward import Answer
from palmette.train.pack import Pass, Plan
from palmette.train.partition import backward, look, schedule
from palmette.train.samples import Sample, from_demonstration
from palmette.trajectory.trie import NONE

Make = Callable[..., Any]


@st.composite
def forests_of_parts(draw: st.DrawFn) -> list[int]:
    """Draw the parent of every part, parents first."""
    count = draw(st.integers(0, 12))
    return [draw(st.integers(max(number - 3, NONE), number - 1)) for number in range(count)]


def path(parents: list[int], number: int) -> list[int]:
    return [*path(parents, parents[number]), number] if number != NONE else []


@settings(max_examples=200, deadline=None)
@given(forests_of_parts())
def test_one_forward_and_one_backward_each_and_a_path_alive(parents: list[int]) -> None:
    alive: list[int] = []
    forwards, backwards = [], []
    for event, number in schedule(parents):
        if event in ("forward", "train"):
            forwards.append(number)
            alive.append(number)
            assert alive == path(parents, number)  # its ancestors, and nobody else
        if event in ("backward", "train"):
            backwards.append(number)
            assert alive.pop() == number  # all below it are done
    assert not alive
    assert sorted(forwards) == sorted(backwards) == list(range(len(parents)))


@settings(max_examples=200, deadline=None)
@given(forests_of_parts())
def test_recompute_keeps_keys_of_a_path_and_one_graph(parents: list[int]) -> None:
    keys: list[int] = []
    trained = []
    for event, number in schedule(parents, recompute=True):
        if event == "keys":
            keys.append(number)
            assert keys == path(parents, number)
            assert number in parents  # who has none below is not run twice
        else:
            assert event == "train"
            if number in parents:
                assert keys.pop() == number
            assert [*keys, number] == path(parents, number)
            trained.append(number)
    assert not keys
    assert sorted(trained) == list(range(len(parents)))


@settings(max_examples=200, deadline=None)
@given(forests_of_parts(), st.booleans())
def test_without_gradients_a_part_is_kept_for_those_below(parents: list[int], recompute: bool) -> None:
    alive: list[int] = []
    seen = []
    for event, number in schedule(parents, recompute=recompute, gradients=False):
        if event == "forward":
            seen.append(number)
            alive.append(number)
            assert alive == path(parents, number)
        else:
            assert event == "release"
            assert alive.pop() == number
    assert not alive
    assert sorted(seen) == list(range(len(parents)))


def chatter(turns: int, side: int, seed: int = 0) -> list[Sample]:
    """Return a conversation of `turns` x 20 tokens with a side branch of `side` tokens at every turn."""
    rng = np.random.default_rng(seed)
    trunk = rng.integers(3, 31, 20 * turns)
    rows = [trunk, *(np.concatenate([trunk[: 20 * k], rng.integers(3, 31, side)]) for k in range(1, turns))]
    return [from_demonstration(row.tolist(), [t % 3 == 1 for t in range(len(row))]) for row in rows]


def nll(asked: Pass, answer: Answer) -> Tensor:
    return -answer.logprob_E[asked.edge_M].sum()


@contextmanager
def peak_of(model: Any) -> Iterator[list[int]]:
    """Count bytes that graphs keep alive for their backward passes, without the parameters; the peak comes out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}  # storage -> how many saved tensors lie in it
    bytes_of: dict[int, int] = {}
    peak = [0]

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def drop(storage: int) -> None:
        held[storage] -= 1
        if not held[storage]:
            del held[storage], bytes_of[storage]

    def keep(tensor: Tensor) -> Saved:
        saved, storage = Saved(tensor.detach()), tensor.untyped_storage()
        if storage.data_ptr() not in own:
            place = storage.data_ptr()
            held[place] = held.get(place, 0) + 1
            bytes_of[place] = storage.nbytes()
            weakref.finalize(saved, drop, place)
            peak[0] = max(peak[0], sum(bytes_of.values()))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved.tensor):
        yield peak
    assert not held  # no graph outlives its backward pass


def peak_bytes(model: Any, plan: Plan, **options: Any) -> int:
    with peak_of(model) as peak:
        backward(model, plan, nll, **options)
    model.zero_grad(set_to_none=True)
    return peak[0]


@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe"])
def test_memory_is_that_of_a_path(architecture: str, tiny_model: Make) -> None:
    model = tiny_model(architecture, dtype=torch.float32)
    samples = chatter(8, 60)  # 160 tokens of trunk, 580 in all
    whole = peak_bytes(model, pack.tree(samples, 10_000))
    longest = peak_bytes(model, pack.tree(samples[:1], 10_000))
    cut_plan = pack.tree(samples, 80)
    assert len(cut_plan.passes) >= 7
    cut = peak_bytes(model, cut_plan)
    assert cut < 0.5 * whole  # had all parts been kept alive, this would be 1
    assert cut < 1.3 * longest * (160 + 80) / 160  # a path, and the side branches of one part


def test_recompute_needs_the_memory_of_one_part(tiny_model: Make) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    samples = chatter(12, 5)
    kept = peak_bytes(model, pack.tree(samples, 40))
    recomputed = peak_bytes(model, pack.tree(samples, 40), recompute=True)
    one_part = peak_bytes(
        model, pack.tree([from_demonstration(samples[0].token_ids_T[:40].tolist(), [False] * 39 + [True])], 40)
    )
    assert recomputed < 0.4 * kept
    assert recomputed < 2.5 * one_part


@pytest.mark.parametrize("way", ["backward", "recompute", "look"])
def test_relays_live_as_long_as_parts_below_need_them(way: str, tiny_model: Make) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    plan = pack.tree([*chatter(8, 60), *chatter(8, 60, seed=1)], 60)
    parents = [asked.parent for asked in plan.passes]
    alive: list[int] = []

    def count(asked: Pass, answer: Answer) -> None:
        number = next(n for n, other in enumerate(plan.passes) if other is asked)
        relays = [thing for thing in gc.get_objects() if type(thing) is Relay]
        assert len(relays) == len([n for n in path(parents, number) if n in parents])
        alive.append(len(relays))

    def loss_of(asked: Pass, answer: Answer) -> Tensor:
        count(asked, answer)
        return nll(asked, answer)

    if way == "look":
        look(model, plan, count)
    else:
        backward(model, plan, loss_of, recompute=way == "recompute")
    assert len(alive) == len(plan.passes)
    assert 2 <= max(alive) < len(set(parents))
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is Relay]


@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe"])
@torch.no_grad()
def test_look_equals_a_plain_forward(architecture: str, tiny_model: Make) -> None:
    model = tiny_model(architecture)
    samples = chatter(4, 13)
    expected = []
    for sample in samples:
        ids = torch.from_numpy(sample.token_ids_T.astype(np.int64))
        logp_TV = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        expected += [float(logp_TV[t - 1, ids[t]]) for t in np.flatnonzero(sample.sampled_T)]
    for plan in (pack.flat(samples, 100), *(pack.tree(samples, budget) for budget in (10_000, 50, 7))):
        found = torch.zeros(len(plan.pairs), dtype=torch.float64)

        def keep(asked: Pass, answer: Answer, found: Tensor = found) -> None:
            found[asked.pair_M] = answer.logprob_E[asked.edge_M]

        look(model, plan, keep)
        assert found.tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("recompute", [False, True])
def test_no_token_is_computed_twice_unless_asked_to(recompute: bool, tiny_model: Make) -> None:
    model = tiny_model("llama", dtype=torch.float32)
    plan = pack.tree(chatter(8, 30), 60)
    ran: list[int] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: ran.append(inputs[0].numel()))
    backward(model, plan, nll, recompute=recompute)
    handle.remove()
    sizes = [asked.token_ids_BN.numel() for asked in plan.passes]
    above = [sizes[number] for number in {asked.parent for asked in plan.passes} - {NONE}]
    assert plan.layout is not None
    assert sum(sizes) == len(plan.layout.token_ids_N)
    assert sum(ran) == sum(sizes) + recompute * sum(above)
