"""How SGLang is asked: its own ``/generate`` with token ids, and ``/update_weights_from_disk``.

Read in the wheel of SGLang 0.5.23 (``sglang/srt/managers/io_struct.py``, ``tokenizer_manager.py``,
``entrypoints/http_server.py``). A stream tells all tokens again with every event, or, under
``--incremental-streaming-output``,
the new ones: both are read. Every answer names its weight version, and since 0.5.2x also the spans of tokens that
several versions sampled.

Log-probs of sampled tokens are those *after* temperature unless the server runs with
``SGLANG_RETURN_ORIGINAL_LOGPROB=1``, which this project needs at any temperature but 1; ``palmette engine check``
measures it. Seeds count only with ``--enable-deterministic-inference``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from palmette.engine.api import EngineError, FinishReason, Sampling
from palmette.engine.remote import Piece, Served, version_number
from palmette.engine.remote_routes import packed
from palmette.engine.remote_wire import Busy, Refused, Wire

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class Sglang:
    """SGLang's wire format."""

    name = "sglang"
    streams_routes = True

    async def served(self, wire: Wire) -> Served:
        """Ask ``/model_info`` (``/get_model_info`` before 0.5.6) and ``/v1/models``, which has the context."""
        try:
            info = await wire.get("/model_info")
        except Refused:
            info = await wire.get("/get_model_info")
        listed = await wire.get("/v1/models")
        try:
            model, context = str(info["model_path"]), int(listed["data"][0]["max_model_len"])
        except (KeyError, IndexError, TypeError, ValueError):
            raise EngineError("neither /model_info nor /v1/models is as SGLang writes it") from None
        return Served(model=model, context_tokens=context, version=version_number(info.get("weight_version")))

    async def pieces(
        self, wire: Wire, prompt_ids: Sequence[int], sampling: Sampling, *, stream: bool, experts: int = 0
    ) -> AsyncGenerator[Piece, None]:
        """Ask for ids and log-probs; every penalty is named, as a model's own defaults would count otherwise."""
        parameters: dict[str, Any] = {
            "max_new_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": sampling.stop_ids,
            "skip_special_tokens": False,
            "no_stop_trim": True,
        }
        if sampling.seed is not None:
            parameters["sampling_seed"] = sampling.seed
        body = {"input_ids": prompt_ids, "sampling_params": parameters, "return_logprob": True, "stream": stream}
        body |= {"return_routed_experts": True} if experts else {}
        if not stream:
            answer = await wire.post("/generate", body)
            _check_prompt(answer, prompt_ids)
            yield _piece(answer, 0, len(prompt_ids), experts)
            return
        known = 0
        async with aclosing(wire.events("/generate", body)) as events:
            async for event in events:
                _check_error(event, known)
                _check_prompt(event, prompt_ids)
                piece = _piece(event, known, len(prompt_ids), experts)
                known += len(piece.token_ids)
                yield piece

    async def score(self, wire: Wire, token_ids: Sequence[int]) -> list[float]:
        """Ask for the log-probs of the input from its first token on; one token is sampled, which is the least."""
        body = {
            "input_ids": token_ids,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
            "return_logprob": True,
            "logprob_start_len": 0,
        }
        answer = await wire.post("/generate", body)
        try:
            told = answer["meta_info"]["input_token_logprobs"][1:]  # the first token has none
            pairs = [(float(one[0]), int(one[1])) for one in told]
        except (KeyError, TypeError, ValueError):
            raise EngineError("the server told no log-probs of its input") from None
        if [token for _, token in pairs] != list(token_ids[1:]):
            raise EngineError("the server scored other tokens than those it was given")
        return [logprob for logprob, _ in pairs]

    async def load(self, wire: Wire, directory: Path, version: int) -> None:
        """Have the files read; the server waits for what is under way, forgets prefixes, and names the version."""
        body = {"model_path": str(directory), "weight_version": str(version), "flush_cache": True}
        answer = await wire.post("/update_weights_from_disk", body)
        if not (isinstance(answer, dict) and answer.get("success")):
            raise EngineError(f"the server did not take the weights: {answer}")


SGLANG = Sglang()


def _piece(answer: Any, known: int, prompt_tokens: int, experts: int) -> Piece:
    """Return the tokens behind the first `known`, and at the end the routes, if there are `experts` to be told."""
    try:
        meta = answer["meta_info"]
        told = meta["output_token_logprobs"]
        ids, total = answer["output_ids"], int(meta["completion_tokens"])
    except (KeyError, TypeError, ValueError):
        raise EngineError("the server's answer has no output_ids with log-probs") from None
    skipped = known if len(ids) == total else 0  # all tokens again, or the new ones alone
    pairs = [(float(one[0]), int(one[1])) for one in told[-len(ids) :]][skipped:] if ids else []
    if known + len(ids) - skipped != total or [token for _, token in pairs] != list(ids[skipped:]):
        raise EngineError(f"the server's {len(ids)} output_ids, {len(told)} log-probs and count {total} do not agree")
    reason = _reason(meta.get("finish_reason"))
    routed = meta.get("routed_experts") if experts and reason is not None else None
    return Piece(
        token_ids=[token for _, token in pairs],
        logprobs=[logprob for logprob, _ in pairs],
        finish_reason=reason,
        version=_version(meta),
        routes_TLK=packed(routed, prompt_tokens + total, experts),
    )


def _reason(told: Any) -> FinishReason | None:
    if told is None:
        return None
    kind = told.get("type") if isinstance(told, dict) else told
    if kind not in _REASONS:
        message = told.get("message") if isinstance(told, dict) else None
        raise EngineError(f"the server ended the completion with '{kind}'{f': {message}' if message else ''}")
    return _REASONS[kind]


def _version(meta: Mapping[str, Any]) -> int | None:
    """Return the version of all tokens. Raises `EngineError` for several."""
    spans = meta.get("weight_versions") or ()
    named = {str(span["version"] if isinstance(span, dict) else span[0]) for span in spans}
    if len(named) > 1:
        raise EngineError(f"the weights changed under a completion: versions {', '.join(sorted(named))}")
    return version_number(meta.get("weight_version"))


def _check_error(event: Any, known: int) -> None:
    """Raise for an error within a stream; `Busy` where it was turned away before it sampled."""
    if not isinstance(event, dict):
        raise EngineError("the server's event is no object")
    error = event.get("error")
    if error:
        raise Refused(int(error.get("code") or 500), str(error.get("message")))
    reason = (event.get("meta_info") or {}).get("finish_reason")
    if isinstance(reason, dict) and reason.get("type") == "abort" and reason.get("status_code") in (429, 503):
        message = f"the server is full: {reason.get('message')}"
        raise EngineError(message) if known else Busy(message)


def _check_prompt(answer: Any, prompt_ids: Sequence[int]) -> None:
    """Raise `EngineError` if the server says that it cut the prompt (``--allow-auto-truncate``)."""
    seen = answer.get("meta_info", {}).get("prompt_tokens") if isinstance(answer, dict) else None
    if seen is not None and seen != len(prompt_ids):
        raise EngineError(f"the server put {seen} tokens before the model, not the {len(prompt_ids)} it was given")
