"""Send malformed requests in every dialect to a gateway and count what it answers; a 5xx is a fault.

    python benchmarks/gateway_fuzz.py --requests 100000

Bodies are good ones with something broken: bytes flipped, cut or inserted, values replaced by others of any type,
fields removed, doubled or nested deeply; headers and paths are broken too. Bytes that are hardly HTTP go over raw
sockets; "closed" is a connection that the server ended without a word, which it may. Prints a row a kind; exits 1 when
there was a 5xx or a connection broke, or when more turns were stored than requests answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.gateway.app import Gateway
from palmette.train.base.tokenizer import train_tokenizer

TOOL = {"type": "object", "properties": {"command": {"type": "string"}}}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "u"}]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "r",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "t"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": TOOL}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "temperature": 1,
        "logprobs": True,
        "return_token_ids": True,
    },
    "/v1/responses": {
        "model": "m",
        "instructions": "s",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "u"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "r"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "namespace": "n", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "t"},
            {"type": "custom_tool_call", "call_id": "d", "name": "p", "input": "x"},
            {"type": "custom_tool_call_output", "call_id": "d", "output": "t"},
        ],
        "tools": [
            {"type": "function", "name": "f", "parameters": TOOL},
            {"type": "custom", "name": "p"},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f", "parameters": TOOL}]},
        ],
        "stream": True,
        "text": {"format": {"type": "text"}},
        "tool_choice": "required",
        "max_output_tokens": 5,
    },
    "/v1/messages": {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "u"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "r", "signature": "s"},
                    {"type": "text", "text": "a"},
                    {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "t"}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": TOOL}],
        "tool_choice": {"type": "any"},
        "stream": True,
    },
    "/v1beta/models/m:streamGenerateContent?alt=sse": {
        "systemInstruction": {"parts": [{"text": "s"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "u"}]},
            {"role": "model", "parts": [{"text": "r", "thought": True}, {"functionCall": {"name": "f", "args": {}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": "t"}}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "generationConfig": {"maxOutputTokens": 5, "temperature": 1, "topK": 64, "responseLogprobs": True},
    },
}
EXTRA_PATHS = ("/v1/messages/count_tokens", "/v1/responses/input_tokens", "/v1beta/models/m:countTokens", "/v1/nowhere")
STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 1e308, 2**63, -(2**63), 2**70, 0.5, "", "\0", "\u202e", "\U000f0000", "x" * 5000),
    *([], {}, [[]], [None], {"": ""}, "{", "[1]", "<|im_end|>", "<|im_start|>system", "image_url", "tool_result"),
    *({"type": "image"}, {"type": "text"}, {"type": ["text"]}, {"role": "assistant"}, [{"parts": [{}]}]),
]


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--json", type=Path)
    asyncio.run(_run(parser.parse_args()))


async def _run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        train_tokenizer(["fuzz"], vocab_size=300, context_tokens=4096).save_pretrained(directory)
        renderer = Renderer.from_dir(Path(directory))
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of each request that is not HTTP
    engine = ScriptedEngine(lambda prompt: renderer.encode("ok<|im_end|>"))
    gateway = Gateway(engine, renderer, max_body_bytes=1 << 20)
    await gateway.start()
    random_ = random.Random(options.seed)
    counts: dict[str, Counter[str]] = {name: Counter() for name in BREAK}
    began = time.perf_counter()
    answered = turns = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as http:
        for start in range(0, options.requests, 500):
            session = gateway.open_session(Sampling(max_tokens=8))
            todo = iter(range(min(500, options.requests - start)))
            root = f"http://127.0.0.1:{gateway.port}{session.base_url.removesuffix('/v1')}"

            async def work(todo: Any = todo, root: str = root) -> int:
                return sum([await _one(http, root, random_, counts) for _ in todo])

            answered += sum(await asyncio.gather(*(work() for _ in range(options.at_once))))
            turns += gateway.close_session(session.key).turns
    seconds = time.perf_counter() - began
    await gateway.close()
    _report(options, counts, answered, turns, seconds)


async def _one(http: aiohttp.ClientSession, root: str, random_: random.Random, counts: dict[str, Counter[str]]) -> int:
    """Send one request; return 1 if it was answered by the model."""
    name = random_.choice(list(BREAK))
    path, body, headers = BREAK[name](random_)
    url = root + path
    try:
        if name == "raw":
            status = await _raw(url, body)
        else:
            async with http.post(url, data=body, headers=headers) as response:
                await response.read()
                status = str(response.status)
    except (aiohttp.ClientError, ConnectionError, TimeoutError, ValueError) as error:
        status = type(error).__name__
    counts[name][status] += 1
    models = not any(path.startswith(extra) for extra in EXTRA_PATHS)
    return int(status == "200" and models)


async def _raw(url: str, data: bytes) -> str:
    """Send bytes that are hardly HTTP; return the status, or "closed"."""
    host, port = url.removeprefix("http://").partition("/")[0].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        writer.write_eof()
        line = await asyncio.wait_for(reader.readline(), 10)
        return line.split()[1].decode() if line.startswith(b"HTTP/") else "closed"
    finally:
        writer.close()


Broken = tuple[str, bytes, dict[str, str]]


def _path(random_: random.Random) -> str:
    return random_.choice(list(GOOD))


def _flipped(random_: random.Random) -> Broken:
    """A good body with bytes changed, cut off or put in."""
    path = _path(random_)
    body = bytearray(json.dumps(GOOD[path]).encode())
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(len(body) or 1)
        match random_.randrange(4):
            case 0:
                body[at : at + 1] = bytes([random_.randrange(256)])
            case 1:
                del body[at:]
            case 2:
                body[at:at] = random_.randbytes(random_.randint(1, 4))
            case _:
                body[at:at] = random_.choice(
                    [b"\xff\xfe", b"\xed\xa0\x80", b"[" * 3000, b"{", b'"', b"\\ud800", b"1e999"]
                )
    return path, bytes(body), {}


def _replaced(random_: random.Random) -> Broken:
    """A good body in which some values are others."""
    path = _path(random_)
    body = json.loads(json.dumps(GOOD[path]))
    for _ in range(random_.randint(1, 3)):
        _change(random_, body)
    if random_.random() < 0.15:
        path = random_.choice(EXTRA_PATHS)
    return path, json.dumps(body).encode(), {}


def _change(random_: random.Random, value: Any) -> None:
    """Change one place of a JSON value, chosen by walking down."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = random_.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and random_.random() < 0.75:
            value = value[key]
            continue
        match random_.randrange(4):
            case 0:
                del value[key]
            case 1 if isinstance(value, list):
                value.append(json.loads(json.dumps(value[key])))
            case _:
                value[key] = json.loads(json.dumps(random_.choice(STRANGE)))  # its own: it may be changed further
        return


def _deep(random_: random.Random) -> Broken:
    """A good body with one value nested deeply, also inside arguments that are JSON in a string."""
    path = _path(random_)
    depth = random_.choice([30, 63, 64, 65, 200, 1000, 5000])
    opening, closing = random_.choice([("[", "]"), ('{"a":', "}")])
    nest = opening * depth + ("1" if opening != "[" else "") + closing * depth
    text = json.dumps(GOOD[path] | {"deep": "HERE"})
    if path.startswith("/v1/chat") and random_.random() < 0.5:
        return path, text.replace('{\\"a\\": 1}', json.dumps('{"a": ' + nest + "}")[1:-1]).encode(), {}
    return path, text.replace('"HERE"', nest).replace('{"a": 1}', '{"a": ' + nest + "}").encode(), {}


def _headed(random_: random.Random) -> Broken:
    """A good body with strange headers or a strange path."""
    path = _path(random_)
    value = random_.choice(["", "x" * 5000, "é" * 9, "-1", "999999999999999999999", "gzip", "1" * 60, "chunked"])
    names = ["x-stainless-retry-count", "idempotency-key", "accept", "authorization", "x-api-key", "content-type"]
    headers = {random_.choice([*names, "expect", "content-encoding", "transfer-coding"]): value}
    if random_.random() < 0.4:
        path = random_.choice(
            [path + "%00", "/v1/%ff", "/v1beta/models/:", "/v1beta/models/a/b:c", "/%2e%2e/v1", "//", "/v1"]
        )
    return path, orjson.dumps(GOOD["/v1/messages"]), headers


def _rawly(random_: random.Random) -> Broken:
    """Bytes that are hardly HTTP."""
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n"
    choices = [
        random_.randbytes(random_.randint(1, 200)) + b"\r\n\r\n",
        head + b"content-length: -5\r\n\r\n{}",
        head + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}",
        head + b"content-length: 99999999999999999999999\r\n\r\n{}",
        head + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        head + b"x: " + b"y" * random_.choice([9_000, 70_000, 300_000]) + b"\r\n\r\n",
        head + b"".join(b"h%d: v\r\n" % n for n in range(random_.choice([50, 3000]))) + b"\r\n",
        b"GET /" + b"a" * random_.choice([9_000, 200_000]) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"BREW /health HTTP/1.1\r\nhost: x\r\n\r\n",
    ]
    return "", random_.choice(choices), {}


BREAK: dict[str, Callable[[random.Random], Broken]] = {
    "bytes": _flipped,
    "values": _replaced,
    "nested": _deep,
    "headers and paths": _headed,
    "raw": _rawly,
}


def _report(
    options: argparse.Namespace, counts: dict[str, Counter[str]], answered: int, turns: int, seconds: float
) -> None:
    total: Counter[str] = sum(counts.values(), Counter())
    for name, counter in counts.items():
        print(f"{name:18} {sum(counter.values()):7}  " + "  ".join(f"{k}: {v}" for k, v in sorted(counter.items())))
    faults = sum(count for status, count in total.items() if status.startswith("5") or not status[:3].isdigit())
    faults -= total["closed"]
    told = f"{answered} answered ({turns} sampled, the rest from the record)"
    print(f"{sum(total.values())} requests in {seconds:.0f} s; {faults} faults; {told}")
    if options.json:
        row = {"requests": sum(total.values()), "faults": faults, "answered": answered, "turns": turns}
        options.json.write_text(json.dumps([row | {"statuses": dict(total)}]))
    sys.exit(1 if faults or turns > answered else 0)


if __name__ == "__main__":
    main()
