"""The local engine against plain forward passes of the same model."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from palmette.engine.api import Completion, EngineError, FinishReason, Sampling
from palmette.engine.local import LocalEngine

KINDS = ("qwen3_moe", "qwen3", "llama")


def _plain_logprobs(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """log p(token t | before) for t = 1..T-1 from one uncached pass."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    return torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def _assert_exact(model: torch.nn.Module, prompt: list[int], completion: Completion) -> None:
    expected = _plain_logprobs(model, [*prompt, *completion.token_ids])[len(prompt) - 1 :]
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
async def test_logprobs_equal_a_plain_forward(kind: str, checkpoints: dict[str, Path]) -> None:
    """Conversations of several turns, starting at random times, over shared prefixes, and again after a load."""
    engine = LocalEngine(AutoModelForCausalLM.from_pretrained(checkpoints[kind]), stop_ids=(3,), max_batch=5, threads=1)
    plain = AutoModelForCausalLM.from_pretrained(checkpoints[kind])
    other = AutoModelForCausalLM.from_pretrained(checkpoints[f"{kind}-other"])
    rng = random.Random(5)
    system = [rng.randrange(131) for _ in range(40)]

    async def converse(index: int, model: torch.nn.Module) -> None:
        own = random.Random(index // 2)  # two conversations a prompt, as in a group
        await asyncio.sleep(rng.random() * 0.02)
        ids = system + [own.randrange(131) for _ in range(own.randrange(1, 60))]
        for turn in range(4):
            sampling = Sampling(max_tokens=own.randrange(1, 25), temperature=0.9, seed=index, stop_ids=(turn,))
            completion = await engine.complete(ids, sampling)
            _assert_exact(model, ids, completion)
            ids = ids + list(completion.token_ids) + [own.randrange(131) for _ in range(own.randrange(1, 40))]
        assert await engine.score(ids) == pytest.approx(_plain_logprobs(model, ids).tolist(), abs=1e-4)

    await asyncio.gather(*(converse(index, plain) for index in range(12)))
    stats = engine.stats()
    assert stats["cached_tokens"] > stats["prefill_tokens"]
    await engine.load(other.state_dict(), 1)
    assert engine.stats()["prefix_tokens"] == 0
    await asyncio.gather(*(converse(index, other) for index in range(6)))
    await engine.close()


async def test_groups_and_turns_are_not_computed_twice(checkpoints: dict[str, Path]) -> None:
    engine = LocalEngine(AutoModelForCausalLM.from_pretrained(checkpoints["llama"]), stop_ids=(), threads=1)
    prompt = [t * t % 131 for t in range(97)]
    group = await asyncio.gather(*(engine.complete(prompt, Sampling(max_tokens=40, seed=s)) for s in range(8)))
    # 97 tokens once; of the 96 that may be cached the other seven find all (6 blocks of 16) and compute one.
    assert engine.stats()["prefill_tokens"] == 97 + 7
    assert engine.stats()["cached_tokens"] == 7 * 96
    turn = prompt + list(group[0].token_ids) + [1, 2, 3]
    await engine.complete(turn, Sampling(max_tokens=1))
    # 97 + 39 tokens have keys (the last sampled one was never fed): 8 blocks of 16.
    assert engine.stats()["cached_tokens"] == 7 * 96 + 128
    await engine.close()


async def test_long_prompts_go_through_in_pieces(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palmette.engine.local._CHUNK", {"cpu": 50})
    model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"])
    engine = LocalEngine(model, stop_ids=(), threads=1)
    plain = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"])
    prompts = [[(t * k + t * t) % 131 for t in range(30 + 70 * k)] for k in range(1, 6)]
    for prompt, completion in zip(
        prompts,
        await asyncio.gather(*(engine.complete(p, Sampling(max_tokens=20, seed=1)) for p in prompts)),
        strict=True,
    ):
        _assert_exact(plain, prompt, completion)
        ids = prompt + list(completion.token_ids)
        assert await engine.score(ids) == pytest.approx(_plain_logprobs(plain, ids).tolist(), abs=1e-4)
    await engine.close()


async def test_sampled_frequencies_are_the_models(checkpoints: dict[str, Path]) -> None:
    """2,000 first tokens at temperature 1: every id within five standard deviations of its probability."""
    engine = LocalEngine(AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"]), stop_ids=(), threads=1)
    plain = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"])
    prompt, n = [5, 9, 77, 3], 2000
    drawn = await asyncio.gather(*(engine.complete(prompt, Sampling(max_tokens=1, seed=s)) for s in range(n)))
    with torch.no_grad():
        p_V = plain(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1).double()
    count_V = torch.bincount(torch.tensor([c.token_ids[0] for c in drawn]), minlength=131).double()
    assert ((count_V - n * p_V).abs() <= 5 * (n * p_V * (1 - p_V)).sqrt() + 1).all()
    await engine.close()


async def test_stop_ids_of_the_model_end_a_completion(checkpoints: dict[str, Path]) -> None:
    def model():
        return AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"])

    engine = LocalEngine(model(), stop_ids=(), threads=1)
    free = await engine.complete([4, 8, 15], Sampling(max_tokens=12, temperature=0))
    await engine.close()
    engine = LocalEngine(model(), stop_ids=(free.token_ids[5],), threads=1)
    stopped = await engine.complete([4, 8, 15], Sampling(max_tokens=12, temperature=0))
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(free.token_ids[5]) + 1]
    assert stopped.finish_reason is FinishReason.STOP
    await engine.close()


async def test_weights_that_do_not_fit_change_nothing(checkpoints: dict[str, Path]) -> None:
    engine = LocalEngine(AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"]), stop_ids=(), threads=1)
    good = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3-other"]).state_dict()
    before = await engine.complete([1, 2, 3], Sampling(max_tokens=8, temperature=0))
    name = "model.layers.0.mlp.up_proj.weight"
    for bad, words in (
        ({**good, "odd": torch.zeros(1)}, "1 unknown, first odd"),
        ({k: v for k, v in good.items() if k != name}, f"1 missing, first {name}"),
        ({**good, name: torch.zeros(2, 2)}, f"1 of another shape, first {name}"),
    ):
        with pytest.raises(EngineError, match=words):
            await engine.load(bad, 1)
    assert engine.version == 0
    assert await engine.complete([1, 2, 3], Sampling(max_tokens=8, temperature=0)) == before
    await engine.close()


async def test_nan_weights_fail_the_request_not_the_engine(checkpoints: dict[str, Path]) -> None:
    engine = LocalEngine(AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"]), stop_ids=(), threads=1)
    good = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"]).state_dict()
    await engine.load({name: torch.full_like(tensor, float("nan")) for name, tensor in good.items()}, 1)
    with pytest.raises(EngineError, match="version 1 give NaN"):
        await engine.complete([1, 2, 3], Sampling())
    await engine.load(good, 2)
    assert (await engine.complete([1, 2, 3], Sampling(max_tokens=4))).version == 2
    await engine.close()


async def test_the_model_still_answers_plain_passes(checkpoints: dict[str, Path]) -> None:
    """Padded batches too, while the engine holds the model and after it gave it back."""
    model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"])
    ids, mask = torch.tensor([[1, 2, 3, 4], [0, 0, 7, 8]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
        engine = LocalEngine(model, stop_ids=(), threads=1)
        during = model(input_ids=ids, attention_mask=mask).logits
        await engine.close()
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(during, before)


async def test_a_cancelled_request_frees_its_row_and_its_place_in_the_queue(checkpoints: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"])
    engine = LocalEngine(model, stop_ids=(), max_batch=1, threads=1)
    long = Sampling(max_tokens=480)
    tasks = [asyncio.ensure_future(engine.complete([k, k + 1], long)) for k in range(3)]
    while not engine.stats()["live_rows"]:
        await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    assert (await engine.complete([5], Sampling(max_tokens=2))).version == 0
    stats = engine.stats()
    assert (stats["live_rows"], stats["waiting"]) == (0, 0)
    assert stats["sampled_tokens"] < 480  # nobody sampled to the end for nothing
    await engine.close()


async def test_a_failing_pass_fails_its_requests_and_not_the_engine(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(AutoModelForCausalLM.from_pretrained(checkpoints["qwen3"]), stop_ids=(), threads=1)
    with monkeypatch.context() as patch:
        patch.setattr("palmette.engine.batch.draw", _no_memory)
        for answer in await asyncio.gather(
            *(engine.complete([k], Sampling()) for k in range(3)), return_exceptions=True
        ):
            assert isinstance(answer, EngineError)
            assert "no memory" in str(answer)
    assert len((await engine.complete([1], Sampling(max_tokens=3))).token_ids) == 3
    await engine.close()


def _no_memory(*args: object) -> None:
    raise RuntimeError("no memory")
