"""The engine that samples a recipe's rollouts: here, or a server elsewhere that is given the weights of every step."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from palmette.chat.template import Renderer
from palmette.engine.api import Engine, EngineError, Sampling
from palmette.engine.probe import FAR
from palmette.engine.remote import RemoteEngine, open_engine
from palmette.errors import UserError
from palmette.model.routing import routers_of
from palmette.train.checkpoint import weights
from palmette.train.samples import from_demonstration
from palmette.train.score import score_samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from palmette.train.recipe import Recipe

KEY_VARIABLE = "PALMETTE_ENGINE_KEY"  # as in `palmette.commands.engine`: never in a file
_SAID = "You are an agent in a Linux shell. Solve the task with the tools, then submit: cat /app/notes.txt"


class EngineConfig(BaseModel):
    """Where rollouts are sampled, and how new weights get there."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["local", "vllm", "sglang"] = Field(
        default="local", description="local: in this process | vllm, sglang: a server that runs already"
    )
    url: str = Field(default="", description="of the server, e.g. http://gpu7:8000; its key is PALMETTE_ENGINE_KEY")
    weights_dir: str = Field(
        default="",
        description="directory that this machine and the server see under one path; every step's weights go there "
        "(vllm: the very directory it was started from)",
    )
    timeout_s: float = Field(default=1800.0, gt=0, description="of one request to the server")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.kind == "local":
            if given := [name for name in ("url", "weights_dir") if getattr(self, name)]:
                raise ValueError(f"{given[0]} is of a server elsewhere: set kind = vllm or sglang with it")
            return self
        if not self.url:
            raise ValueError(f"kind = {self.kind} needs url, such as http://gpu7:8000")
        if not self.weights_dir:
            raise ValueError(
                f"kind = {self.kind} needs weights_dir: new weights reach a server through a directory that both see"
            )
        return self


async def open_serving(recipe: Recipe, model_dir: Path, renderer: Renderer) -> Engine:
    """Return the engine of a recipe, which starts with the weights in `model_dir`.

    A remote one may have others until it is given some (`give`). Raises `UserError` when nobody is there.
    """
    config, replayed = recipe.engine, "replay" in (recipe.rl.old_logprob, recipe.distil.old_logprob)
    if config.kind != "local":
        directory = Path(config.weights_dir)
        await asyncio.to_thread(_furnish, directory, model_dir)
        return await open_engine(
            f"{config.kind}:{config.url}",
            key=os.environ.get(KEY_VARIABLE, ""),
            stop_ids=renderer.stop_ids,
            weights_dir=directory,
            timeout_s=config.timeout_s,
            experts_per_token=_experts_per_token(model_dir) if replayed else 0,
        )
    from palmette.engine.local import LocalEngine
    from palmette.engine.noise import Noise
    from palmette.model.load import load_model

    return LocalEngine(
        load_model(model_dir, dtype=recipe.model.dtype, device=recipe.model.device),
        stop_ids=renderer.stop_ids,
        max_batch=recipe.concurrency,
        noise=Noise(**recipe.noise.model_dump()),
        record_routes=replayed,
    )


async def give(engine: Engine, model: PreTrainedModel, version: int, renderer: Renderer) -> None:
    """Let the engine answer with the weights of `model`, as `version`, and ask a server whether it does.

    A server may read another directory, or not read at all, and still say that all is well: so a text is scored on both
    sides, and a mean difference over `FAR` nats a token is refused. Raises `UserError`.
    """
    try:
        await engine.load(weights(model), version)
        if isinstance(engine, RemoteEngine):
            ids = renderer.encode(_SAID)
            theirs_T = np.array(await engine.score(ids))
            ours_T = await asyncio.to_thread(_scored, model, ids)
            if engine.experts_per_token:
                await _check_routes(engine, model, ids)
            apart = float(np.abs(theirs_T - ours_T).mean())
            if not apart <= FAR:
                raise UserError(
                    f"the {engine.kind} server does not answer with the weights it was given (log-probs differ by "
                    f"{apart:.2g} on average): is engine.weights_dir the directory that it reads, and is it this model?"
                )
    except EngineError as error:
        raise UserError(f"the engine took no new weights: {error}; then go on with 'palmette resume'") from error


def _experts_per_token(model_dir: Path) -> int:
    """Return how many experts of a layer a token goes to. Raises `UserError` for a model without any."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(model_dir), local_files_only=True).get_text_config()
    found = getattr(config, "num_experts_per_tok", None) or getattr(config, "moe_topk", None)
    if not found:
        raise UserError(
            f"old_logprob = replay needs a mixture of experts, and {model_dir} is none; set it to recompute"
        )
    return int(found)


async def _check_routes(engine: RemoteEngine, model: PreTrainedModel, ids: list[int]) -> None:
    """Refuse a server without the routes that are to be replayed, or with those of other layers. Raises `UserError`."""
    done = await engine.complete(ids, Sampling(max_tokens=1, temperature=0.0))
    layers = len(routers_of(model))
    if done.routes_TLK is None:
        raise UserError(
            f"old_logprob = replay needs expert routes, and the {engine.kind} server tells none: start it with "
            "--enable-return-routed-experts, or set old_logprob = recompute"
        )
    if done.routes_TLK.shape[1] != layers:
        raise UserError(
            f"the {engine.kind} server tells routes of {done.routes_TLK.shape[1]} layers, and "
            f"{type(model).__name__} has experts in {layers}; set old_logprob = recompute"
        )
    engine.routes_needed = True


def _scored(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    """Return log p of tokens 1..T-1."""
    sample = from_demonstration(ids, [False] + [True] * (len(ids) - 1))
    [score_T] = score_samples(model, [sample], len(ids), tree=False)
    return score_T[1:]


def _furnish(directory: Path, model_dir: Path) -> None:
    """Put beside the weights to come what a model directory has besides, where nobody has. Raises `UserError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / "config.json").is_file():
            for file in model_dir.iterdir():
                if file.is_file() and file.suffix not in (".safetensors", ".bin") and ".index." not in file.name:
                    shutil.copyfile(file, directory / file.name)
    except OSError as error:
        raise UserError(f"engine.weights_dir {directory} cannot be written: {error.strerror}") from error
