"""The published schema says what the tables say, and what it calls a good request is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from palmette.engine.scripted import ScriptedEngine
from palmette.gateway import gemini
from palmette.gateway.routes import COUNTS, DIALECTS

SMALL: dict[str, Any] = {
    "messages": [{"role": "user", "content": "x"}],
    "contents": [{"role": "user", "parts": [{"text": "x"}]}],
    "input": "x",
    "prompt": [1, 2],
}
GOOD: dict[str, Any] = {
    "model": "any", "stream": False, "stop": ["zz"], "stop_sequences": ["zz"], "stop_token_ids": [3], "max_tokens": 5,
    "max_completion_tokens": 5, "max_output_tokens": 16, "temperature": 0.5, "top_p": 0.5, "return_token_ids": True,
}  # fmt: skip


@pytest.fixture
async def document(open_gateway: Callable[..., Any], say: Any, http: aiohttp.ClientSession) -> tuple[str, Any]:
    gateway = await open_gateway(ScriptedEngine(lambda _: say("hi")), public_key="")
    base = f"http://127.0.0.1:{gateway.port}"
    async with http.get(f"{base}/openapi.json") as answer:
        assert answer.status == 200
        return base, await answer.json()


def test_every_field_of_every_table_is_published(document: tuple[str, Any]) -> None:
    paths = document[1]["paths"]
    tables = {path: dialect.fields for path, dialect in DIALECTS.items()}
    tables |= {path: dialect.fields for path, (dialect, _) in COUNTS.items()}
    tables |= {
        f"/v1beta/models/{{name}}:{verb}": gemini.FIELDS for verb in ("generateContent", "streamGenerateContent")
    }
    assert {path for path in paths if "post" in paths[path]} == set(tables)
    for path, fields in tables.items():
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert {name: one["description"] for name, one in schema["properties"].items()} == dict(fields)
        refused = {name for name, one in schema["properties"].items() if one.get("type") == "null"}
        assert refused == {name for name, fate in fields.items() if fate == "refused"}
        assert schema["required"] == [name for name in SMALL if fields.get(name) == "honoured"]


async def test_what_it_calls_good_is_answered(document: tuple[str, Any], http: aiohttp.ClientSession) -> None:
    base, told = document
    for path, operations in told["paths"].items():
        url = base + path.replace("{name}", "any")
        if "get" in operations:
            async with http.get(url) as answer:
                assert answer.status == 200, path
            continue
        schema = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
        known = schema["properties"]
        body = {
            name: value
            for name, value in (GOOD | SMALL).items()
            if known.get(name, {"type": "null"}).get("type") != "null"
        }
        for one in (body, {name: body[name] for name in schema["required"]}):
            async with http.post(url, json=one) as answer:
                assert answer.status == 200, (path, await answer.text())
