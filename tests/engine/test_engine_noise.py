"""An engine that errs on purpose: by how much, in what, and that a record of its experts takes the error away."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from palmette.engine.api import Sampling
from palmette.engine.local import LocalEngine
from palmette.engine.noise import Noise
from palmette.errors import UserError
from palmette.model.routing import record, replay


def _load(checkpoints: dict[str, Path], kind: str = "qwen3_moe") -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(checkpoints[kind])


def _logprobs(model: torch.nn.Module, ids: list[int], routes: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        if routes is None:
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        else:
            with replay(model, routes):  # type: ignore[arg-type]
                logits = model(input_ids=torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits.float(), -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


async def test_log_probs_are_off_by_the_variance_asked_for(checkpoints: dict[str, Path]) -> None:
    ids = [random.Random(0).randrange(131) for _ in range(400)]
    engine = LocalEngine(_load(checkpoints), stop_ids=(3,), threads=1, noise=Noise(logprob_var=0.01, seed=3))
    clean = LocalEngine(_load(checkpoints), stop_ids=(3,), threads=1)
    exact = torch.tensor(await clean.score(ids))
    draws = torch.stack([torch.tensor(await engine.score(ids)) for _ in range(8)])
    assert float(draws.var(0).mean()) == pytest.approx(0.01, rel=0.1)
    assert float((draws.mean(0) - exact).var()) == pytest.approx(0.01 / 8, rel=0.3)
    sampling = Sampling(max_tokens=40, seed=1)
    noisy, plain = await engine.complete(ids[:9], sampling), await clean.complete(ids[:9], sampling)
    assert noisy.token_ids == plain.token_ids
    assert noisy.logprobs != plain.logprobs
    await asyncio.gather(engine.close(), clean.close())


@pytest.mark.parametrize("noise", [Noise(), Noise(router_std=1.0), Noise(router_std=1.0, seed=1)])
async def test_recorded_experts_replayed_give_the_engines_log_probs(checkpoints: dict[str, Path], noise: Noise) -> None:
    """Over turns, shared prefixes and long prompts, noisy or not."""
    engine = LocalEngine(_load(checkpoints), stop_ids=(3,), max_batch=3, threads=1, noise=noise, record_routes=True)
    plain = _load(checkpoints)
    system = [random.Random(9).randrange(131) for _ in range(60)]
    gaps: list[float] = []

    async def converse(index: int) -> None:
        own = random.Random(index // 2)
        ids = system + [own.randrange(131) for _ in range(own.randrange(1, 40))]
        for _ in range(3):
            done = await engine.complete(ids, Sampling(max_tokens=own.randrange(1, 25), seed=index))
            first, ids = len(ids), ids + list(done.token_ids)
            assert done.routes_TLK is not None
            assert done.routes_TLK.shape == (len(ids), 3, 2)
            assert (done.routes_TLK[-1] == -1).all()
            routes = torch.from_numpy(done.routes_TLK.astype("int64"))
            if not noise.router_std:
                with record(plain) as recorder, torch.no_grad():  # type: ignore[arg-type]
                    plain(input_ids=torch.tensor([ids]))
                assert torch.equal(recorder.choices_NLK()[:-1].sort(-1).values, routes[:-1].sort(-1).values)
            told = torch.tensor(done.logprobs)
            torch.testing.assert_close(_logprobs(plain, ids, routes)[first - 1 :], told, atol=1e-4, rtol=1e-4)
            gaps.append(float((_logprobs(plain, ids)[first - 1 :] - told).abs().max()))
            ids = ids + [own.randrange(131) for _ in range(own.randrange(1, 30))]

    await asyncio.gather(*(converse(index) for index in range(6)))
    assert engine.stats()["cached_tokens"] > 0
    assert (max(gaps) > 0.1) == (noise.router_std > 0)
    await engine.close()


async def test_dropped_tokens_depend_on_the_company(checkpoints: dict[str, Path]) -> None:
    engine = LocalEngine(_load(checkpoints), stop_ids=(3,), threads=1, noise=Noise(capacity=0.7))
    ids = [random.Random(0).randrange(131) for _ in range(50)]
    alone = await engine.score(ids)
    assert alone == await engine.score(ids)
    company = await asyncio.gather(*(engine.score([random.Random(n).randrange(131), *ids]) for n in range(6)))
    with_others = {row[1:] for row in company}
    assert len(with_others) > 1
    await engine.close()


@pytest.mark.parametrize("what", [{"noise": Noise(router_std=1.0)}, {"record_routes": True}])
def test_a_dense_model_has_no_experts(checkpoints: dict[str, Path], what: dict) -> None:
    with pytest.raises(UserError, match="no router"):
        LocalEngine(_load(checkpoints, "llama"), stop_ids=(3,), **what)


def test_noise_is_not_negative() -> None:
    with pytest.raises(ValueError, match=r"Noise\.capacity"):
        Noise(capacity=-1.0)
