"""How vLLM is asked: ``/v1/completions`` with token ids, and its development routes for new weights.

Read in vLLM's sources (``vllm/entrypoints/openai/completion``, ``vllm/entrypoints/serve/dev``; the stored snapshots
reach releases about 0.20 to 0.32) and documentation (sleep mode, weight checker). `return_token_ids` is there since
0.10.2. The younger ``/inference/v1/generate`` is not used: it moved and changed its fields between releases, writes
sampled tokens into strings, and other servers (this project's own among them) do not have it.

Log-probs are those before temperature and truncation as long as the server runs with its default
``--logprobs-mode raw_logprobs``; ``palmette engine check`` measures it. vLLM puts no weight version into an answer:
``/weight_info`` has it, and only with ``VLLM_SERVER_DEV_MODE=1``. New weights take that mode too: ``collective_rpc``
with ``reload_weights`` reads the files the server was started from. It is no public interface of vLLM's.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

from palmette.engine.api import EngineError, FinishReason, Sampling
from palmette.engine.remote import Piece, Served, version_number
from palmette.engine.remote_routes import listed
from palmette.engine.remote_wire import Refused, Wire

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_FINGERPRINT = re.compile(r"weights-(\d+)")  # how `palmette serve` names the weights that answered


class Vllm:
    """vLLM's wire format."""

    name = "vllm"
    streams_routes = False

    async def served(self, wire: Wire) -> Served:
        """Ask ``/v1/models``, and ``/weight_info`` where there is one."""
        listed = await wire.get("/v1/models")
        try:
            model = listed["data"][0]
            context = int(model["max_model_len"])
        except (KeyError, IndexError, TypeError, ValueError):
            raise EngineError("/v1/models names no model with a max_model_len") from None
        try:
            version = (await wire.get("/weight_info"))["weight_version"]
        except (Refused, KeyError, TypeError):
            version = None
        return Served(model=str(model["id"]), context_tokens=context, version=version_number(version))

    async def pieces(
        self, wire: Wire, prompt_ids: Sequence[int], sampling: Sampling, *, stream: bool, experts: int = 0
    ) -> AsyncGenerator[Piece, None]:
        """Ask for one choice with its ids; every penalty is named, as a model's own defaults would count otherwise."""
        body = {
            "prompt": prompt_ids,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": sampling.seed,
            "stop_token_ids": sampling.stop_ids,
            "logprobs": 0,  # of the sampled token alone
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "stream": stream,
        }
        if not stream:
            answer = await wire.post("/v1/completions", body)
            choice = _choice(answer)
            _same_prompt(choice, prompt_ids)
            yield _piece(choice, answer, _routes(choice, answer) if experts else None)
            return
        async with aclosing(wire.events("/v1/completions", body)) as events:
            async for event in events:
                if isinstance(event, dict) and event.get("error"):
                    error = event["error"]
                    raise Refused(int(error.get("code") or 500), str(error.get("message")))
                choice = _choice(event)
                _same_prompt(choice, prompt_ids)
                yield _piece(choice, event)

    async def score(self, wire: Wire, token_ids: Sequence[int]) -> list[float]:
        """Ask for the prompt's log-probs, which vLLM computes without its prefix cache; one token is sampled."""
        body = {"prompt": token_ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        told = _choice(await wire.post("/v1/completions", body)).get("prompt_logprobs")
        try:
            pairs = zip((told or ())[1:], token_ids[1:], strict=True)
            return [float(ranked[str(token)]["logprob"]) for ranked, token in pairs]
        except (KeyError, TypeError, ValueError):
            raise EngineError("the server told no log-probs of the prompt") from None

    async def load(self, wire: Wire, directory: Path, version: int) -> None:
        """Pause when what is under way is done, read the weights, name them, forget prefixes, go on."""
        try:
            await wire.post("/pause?mode=wait")
            try:
                await wire.post("/collective_rpc", {"method": "reload_weights"})
                await wire.post("/reset_prefix_cache")
                await wire.post("/update_weight_version", {"new_version": str(version)})
            finally:
                await wire.post("/resume")
        except Refused as error:
            if error.status == 404:
                raise EngineError(
                    "this vLLM takes no new weights: start a recent one with VLLM_SERVER_DEV_MODE=1"
                ) from error
            raise


VLLM = Vllm()


def _choice(answer: Any) -> Mapping[str, Any]:
    try:
        return answer["choices"][0]
    except (KeyError, IndexError, TypeError):
        raise EngineError("the server's answer has no choice") from None


def _same_prompt(choice: Mapping[str, Any], prompt_ids: Sequence[int]) -> None:
    """Raise `EngineError` if the server says that it was given something else (truncated, re-tokenised)."""
    seen = choice.get("prompt_token_ids")
    if seen is not None and tuple(seen) != tuple(prompt_ids):
        raise EngineError(f"the server put {len(seen)} tokens before the model, not the {len(prompt_ids)} it was given")


def _routes(choice: Mapping[str, Any], answer: Mapping[str, Any]) -> np.ndarray | None:
    prompt, sampled = listed(answer.get("prompt_routed_experts")), listed(choice.get("routed_experts"))
    if prompt is None or sampled is None:
        return None
    if prompt.shape[1:] != sampled.shape[1:]:
        raise EngineError(f"the server routes prompts {prompt.shape[1:]} and answers {sampled.shape[1:]}")
    return np.concatenate([prompt, sampled])


def _piece(choice: Mapping[str, Any], answer: Mapping[str, Any], routes_TLK: np.ndarray | None = None) -> Piece:
    ids = choice.get("token_ids")
    if ids is None:
        raise EngineError("the server tells no token_ids: vLLM does since 0.10.2")
    reason = choice.get("finish_reason")
    if reason is not None and reason not in _REASONS:
        raise EngineError(f"the server ended the completion with '{reason}'")
    named = _FINGERPRINT.fullmatch(answer.get("system_fingerprint") or "")
    return Piece(
        token_ids=ids,
        logprobs=(choice.get("logprobs") or {}).get("token_logprobs") or (),
        finish_reason=_REASONS[reason] if reason is not None else None,
        version=int(named[1]) if named else None,
        routes_TLK=routes_TLK,
    )
