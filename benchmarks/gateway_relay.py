"""A straightforward FastAPI + httpx relay of Chat Completions, as several projects of the field have one.

It parses the body, sends it on as JSON, parses the answer and sends it back; it tokenises, samples and keeps nothing.
Its client has a long time-out, so that nothing is lost in its pool, and httpx's bounds of 100 connections, or none with
``wide``. Run by `benchmarks/gateway.py` in an environment of its own; needs fastapi, httpx and uvicorn[standard].
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request

UPSTREAM = os.environ.get("UPSTREAM", "")
WIDE = sys.argv[2:] == ["wide"]


@asynccontextmanager
async def _client(app: FastAPI) -> AsyncIterator[None]:
    most, kept = (None, None) if WIDE else (100, 20)  # httpx's own
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=kept)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=_client)


@app.post("/v1/chat/completions")
async def complete(request: Request) -> Any:
    """Relay one request."""
    answer = await request.app.state.client.post(f"{UPSTREAM}/v1/chat/completions", json=await request.json())
    return answer.json()


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, backlog=4096)
