"""The Docker Engine API over a unix socket: calls that answer in JSON, and the raw connection of an exec."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

API = "/v1.41"  # Docker 20.10 and newer, Podman 4 and newer


class EngineError(Exception):
    """The engine refused; `status` is HTTP's, 0 when it could not be reached."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Engine:
    """The engine behind one unix socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, method: str, path: str, body: Any = None, *, data: Any = None, **query: str) -> Any:
        """Make a call and return what JSON it answers. Raises `EngineError`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self.path, limit=64))
        try:
            async with self._session.request(
                method, f"http://engine{API}{path}", json=body, data=data, params=query
            ) as answer:
                text = await answer.text()
                if answer.status >= 400:
                    with suppress(ValueError):
                        text = json.loads(text).get("message", text)
                    raise EngineError(answer.status, text.strip())
                return json.loads(text) if "json" in answer.content_type and text.strip() else text
        except (OSError, aiohttp.ClientError) as error:
            raise EngineError(0, f"the engine at {self.path} cannot be reached ({error})") from None

    async def attach(self, exec_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Start an exec and return its raw connection (frames out, standard input in). Raises `EngineError`."""
        body = b'{"Detach":false,"Tty":false}'
        head = f"POST {API}/exec/{exec_id}/start HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        head += f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            reader, writer = await asyncio.open_unix_connection(self.path)
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError) as error:
            raise EngineError(0, f"the engine at {self.path} broke off ({error})") from None
        status = int(answer.split(None, 2)[1])
        if status not in (101, 200):
            text = (await reader.read(4096)).decode(errors="replace")
            writer.close()
            raise EngineError(status, text.strip())
        return reader, writer

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._session:
            await self._session.close()
            self._session = None


def find_socket() -> str | None:
    """Return the socket of an engine: $DOCKER_HOST, Docker's or Podman's usual places; None if there is none."""
    named = os.environ.get("DOCKER_HOST", "")
    if named:
        return named.removeprefix("unix://") if named.startswith("unix://") else None
    own = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    places = ("/var/run/docker.sock", f"{own}/docker.sock", "/run/podman/podman.sock", f"{own}/podman/podman.sock")
    return next((place for place in places if Path(place).is_socket()), None)
