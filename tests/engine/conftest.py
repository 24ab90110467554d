"""Tiny random checkpoints of three architectures, saved to disk once a session, and servers as vLLM and SGLang are."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import uvicorn
from safetensors.torch import load_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from palmette.engine.api import Completion, ContextExhausted, Sampling, StreamingEngine
from palmette.gateway.listen import Server, bind

_SHAPE: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # far from uniform, so that a wrong key or position shows in the log-probs
}
KINDS: dict[str, Any] = {
    "qwen3_moe": lambda **more: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **_SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, tie_word_embeddings=True, **more
        )
    ),
    "qwen3": lambda **more: Qwen3ForCausalLM(Qwen3Config(**_SHAPE, **more)),
    "llama": lambda **more: LlamaForCausalLM(LlamaConfig(**_SHAPE | {"num_key_value_heads": 1}, **more)),
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories (weights and configuration, no tokenizer) by architecture, and ``qwen3_moe/other`` weights."""
    root = tmp_path_factory.mktemp("checkpoints")
    for seed, (kind, make) in enumerate(KINDS.items()):
        torch.manual_seed(seed)
        make().save_pretrained(root / kind)
        make().save_pretrained(root / f"{kind}-other")
    return {path.name: path for path in root.iterdir()}


async def disconnected(request: Request) -> None:
    """Return when the client has gone away; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@dataclass
class Fake:
    """A server that speaks one engine's wire format over a real engine; `faults` are answered first, in order."""

    engine: StreamingEngine
    weights: Path | None = None
    dev: bool = True  # vLLM's development routes
    incremental: bool = False  # SGLang's flag
    scaled: bool = False  # log-probs wrong on purpose: those of sampled tokens doubled
    faults: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    left: int = 0  # clients that went away before their answer
    port: int = 0

    async def sample(
        self, request: Request, prompt: list[int], sampling: Sampling, each: Callable[[int, float], None] | None = None
    ) -> Completion:
        """Sample until the client leaves."""
        asked = self.engine.stream(prompt, sampling, each or (lambda *_: None))
        answer, gone = asyncio.ensure_future(asked), asyncio.ensure_future(disconnected(request))
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not answer.done():
            self.left += 1
            answer.cancel()
        return await answer

    async def events(self, request: Request, prompt: list[int], sampling: Sampling) -> AsyncIterator[tuple[Any, Any]]:
        """Yield (ids and log-probs so far, the completion at the end)."""
        told: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
        answer = asyncio.ensure_future(
            self.engine.stream(prompt, sampling, lambda token, logprob: told.put_nowait((token, logprob)))
        )
        so_far: list[tuple[int, float]] = []
        try:
            while not answer.done() or not told.empty():
                getting = asyncio.ensure_future(told.get())
                await asyncio.wait((answer, getting), return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    so_far.append(getting.result())
                    yield list(so_far), None
                else:
                    getting.cancel()
            yield list(so_far), answer.result()
        finally:
            self.left += not answer.done()
            answer.cancel()

    async def route(self, request: Request) -> Response:
        """Answer a fault, or what the path says."""
        path, raw = request.url.path, await request.body()
        body = orjson.loads(raw) if raw else None
        self.asked.append((path, body))
        if self.faults and request.method == "POST":
            status, told, headers = self.faults.pop(0)
            return JSONResponse(told, status, headers)
        try:
            return await self.answer(path, body, request)
        except ContextExhausted:
            return self.overflow()
        except asyncio.CancelledError:
            return Response(status_code=499)

    async def answer(self, path: str, body: Any, request: Request) -> Response:
        raise NotImplementedError

    def overflow(self) -> Response:
        raise NotImplementedError

    async def reload(self, version: int) -> None:
        assert self.weights is not None
        await self.engine.load(load_file(self.weights / "model.safetensors"), version)


class FakeVllm(Fake):
    """vLLM's routes, as in its sources."""

    version = "default"

    def overflow(self) -> Response:
        message = f"This model's maximum context length is {self.engine.context_tokens} tokens. However, you asked ..."
        return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": 400}}, 400)

    async def answer(self, path: str, body: Any, request: Request) -> Response:
        if path == "/v1/models":
            return JSONResponse({"data": [{"id": "m", "max_model_len": self.engine.context_tokens}]})
        if path == "/v1/completions":
            return await self.completions(body, request)
        if not self.dev or path.startswith(("/model_info", "/get_model_info", "/generate")):
            return JSONResponse({"detail": "Not Found"}, 404)
        if path == "/collective_rpc":
            assert body == {"method": "reload_weights"}
            await self.reload(self.engine.version + 1)
        if path == "/update_weight_version":
            self.version = body["new_version"]
        return JSONResponse({"weight_version": self.version} if path == "/weight_info" else {"status": "done"})

    async def completions(self, body: Any, request: Request) -> Response:
        prompt = body["prompt"]
        sampling = Sampling(
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body.get("top_p", 1.0),
            top_k=max(body.get("top_k", 0), 0),
            seed=body.get("seed"),
            stop_ids=tuple(body.get("stop_token_ids", ())),
        )
        if body.get("stream"):
            return StreamingResponse(self.chunks(request, prompt, sampling), media_type="text/event-stream")
        done = await self.sample(request, prompt, sampling)
        choice = self.choice(list(zip(done.token_ids, done.logprobs, strict=True)), done)
        if body.get("return_token_ids"):
            choice["prompt_token_ids"] = prompt
        routes = {}
        if done.routes_TLK is not None:
            choice["routed_experts"] = done.routes_TLK[len(prompt) :].tolist()
            routes["prompt_routed_experts"] = done.routes_TLK[: len(prompt)].tolist()
        if "prompt_logprobs" in body:
            scores = await self.engine.score(prompt)
            ranked = [{str(t): {"logprob": s, "rank": 1}} for t, s in zip(prompt[1:], scores, strict=True)]
            choice["prompt_logprobs"] = [None, *ranked]
        return JSONResponse({"object": "text_completion", "model": "m", "choices": [choice], "usage": {}} | routes)

    def choice(self, pairs: list[tuple[int, float]], done: Completion | None) -> dict[str, Any]:
        factor = 2.0 if self.scaled else 1.0
        told = {"token_logprobs": [factor * s for _, s in pairs], "tokens": [f"token_id:{t}" for t, _ in pairs]}
        reason = str(done.finish_reason) if done else None
        return {
            "index": 0,
            "text": "",
            "logprobs": told,
            "token_ids": [t for t, _ in pairs],
            "finish_reason": reason,
            "stop_reason": None,
        }

    async def chunks(self, request: Request, prompt: list[int], sampling: Sampling) -> AsyncIterator[bytes]:
        known = 0
        try:
            async for so_far, done in self.events(request, prompt, sampling):
                choice = self.choice(so_far[known:], done)
                yield b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"
                known = len(so_far)
        except ContextExhausted:
            yield b"data: " + self.overflow().body + b"\n\n"
        yield b"data: [DONE]\n\n"


class FakeSglang(Fake):
    """SGLang's routes, as in its sources."""

    version = "default"

    def overflow(self) -> Response:
        message = "The input (999 tokens) is longer than the model's context length (128 tokens)."
        return JSONResponse({"error": {"message": message}}, 400)

    async def answer(self, path: str, body: Any, request: Request) -> Response:
        if path == "/model_info":
            return JSONResponse({"model_path": "/models/m", "weight_version": self.version})
        if path == "/v1/models":
            return JSONResponse({"data": [{"id": "m", "max_model_len": self.engine.context_tokens}]})
        if path == "/update_weights_from_disk":
            await self.reload(int(body["weight_version"]))
            self.version = body["weight_version"]
            return JSONResponse({"success": True, "message": "Succeeded"})
        return await self.generate(body, request)

    async def generate(self, body: Any, request: Request) -> Response:
        prompt, asked = body["input_ids"], body["sampling_params"]
        sampling = Sampling(
            max_tokens=asked["max_new_tokens"],
            temperature=asked["temperature"],
            top_p=asked.get("top_p", 1.0),
            top_k=max(asked.get("top_k", 0), 0),
            seed=asked.get("sampling_seed"),
            stop_ids=tuple(asked.get("stop_token_ids", ())),
        )
        if body.get("stream"):
            return StreamingResponse(self.chunks(request, prompt, sampling), media_type="text/event-stream")
        done = await self.sample(request, prompt, sampling)
        if not body.get("return_routed_experts"):
            done = replace(done, routes_TLK=None)
        answer = self.output(prompt, list(zip(done.token_ids, done.logprobs, strict=True)), done, 0)
        if body.get("logprob_start_len") == 0:
            scores = await self.engine.score(prompt)
            told = [[None, prompt[0], None], *([s, t, None] for t, s in zip(prompt[1:], scores, strict=True))]
            answer["meta_info"]["input_token_logprobs"] = told
        return JSONResponse(answer)

    def output(
        self, prompt: list[int], pairs: list[tuple[int, float]], done: Completion | None, known: int
    ) -> dict[str, Any]:
        new = pairs[known if self.incremental else 0 :]
        factor = 2.0 if self.scaled else 1.0
        meta = {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(pairs),
            "weight_version": self.version,
            "output_token_logprobs": [[factor * s, t, None] for t, s in new],
            "finish_reason": {"type": str(done.finish_reason)} if done else None,
        }
        if done and done.routes_TLK is not None:
            meta["routed_experts"] = base64.b64encode(done.routes_TLK[:-1].astype("<i4").tobytes()).decode()
        return {"text": "", "output_ids": [t for t, _ in new], "meta_info": meta}

    async def chunks(self, request: Request, prompt: list[int], sampling: Sampling) -> AsyncIterator[bytes]:
        known = 0
        async for so_far, done in self.events(request, prompt, sampling):
            yield b"data: " + orjson.dumps(self.output(prompt, so_far, done, known)) + b"\n\n"
            known = len(so_far)
        yield b"data: [DONE]\n\n"


FAKES: dict[str, type[Fake]] = {"vllm": FakeVllm, "sglang": FakeSglang}
Serve = Callable[..., Awaitable[Fake]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers: ``fake = await serve("vllm", engine)`` listens on `fake.port`."""
    started: list[tuple[Server, asyncio.Task[None], Fake]] = []

    async def start(kind: str, engine: StreamingEngine, **options: Any) -> Fake:
        fake = FAKES[kind](engine=engine, **options)
        app = Starlette(routes=[Route("/{path:path}", fake.route, methods=["GET", "POST"])])
        listener = bind("127.0.0.1", 0)
        fake.port = listener.getsockname()[1]
        config = uvicorn.Config(app, loop="none", ws="none", lifespan="off", access_log=False, log_config=None)
        server = Server(config)
        started.append((server, asyncio.create_task(server.serve(sockets=[listener])), fake))
        await server.ready.wait()
        return fake

    yield start
    for server, serving, fake in started:
        await fake.engine.close()
        server.should_exit = True
        await serving
