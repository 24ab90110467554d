"""The HTTP proxy of a sandbox with an allow-list: it runs in the host's process and listens in the sandbox's network.

It takes CONNECT (for https) and absolute-form requests (for http), one a connection. The sandbox names hosts; which
addresses these are, and whether they may be reached, is found out here, once for every request.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from palmette.sandbox.allow_list import AllowList, Refused
from palmette.sandbox.relay import join

ADDRESS = ("127.77.0.1", 3128)  # in the sandbox
_HEAD_S, _DIAL_S, _LINGER_S = 60.0, 20.0, 0.3
_AT_ONCE = 128
_CHUNK = 1 << 16
_HOP_BY_HOP = (
    "connection",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a sandbox asked for."""

    at: float  # seconds since 1970
    method: str
    host: str
    port: int
    status: int  # 200 when it was let through
    why: str  # it was not


class Proxy:
    """The proxy of one sandbox, which may pass `limit_bytes` in all; `log` is told of every request."""

    def __init__(self, allowed: AllowList, *, limit_bytes: int, log: Callable[[Request], None]) -> None:
        self._allowed = allowed
        self._limit_bytes = limit_bytes
        self._log = log
        self._at_once = 0
        self.passed_bytes = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        self._at_once += 1
        try:
            async with asyncio.timeout(_HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
            await self._let_through(head, reader, writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass
        finally:
            self._at_once -= 1

    async def _let_through(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, host, port = "?", "", 0
        try:
            method, fields, target = _parsed(head)
            host, port, path = _place(method, target)
            length = None if method == "CONNECT" else _length(fields)
            outer, to_outer = await self._dialled(host, port)
        except Refused as refused:
            self._noted(method, host, port, refused.status, str(refused))
            await _answer(reader, writer, refused)
            return
        self._noted(method, host, port, 200, "")
        if length is None:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await join(reader, writer, outer, to_outer, passed=self._passed)
        else:
            to_outer.write(_head(method, path, host, port, fields))
            await _exchange(reader, writer, outer, to_outer, length, self._passed)

    async def _dialled(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.passed_bytes >= self._limit_bytes:
            raise Refused(403, f"this sandbox has passed the {self._limit_bytes >> 20} MB of Limits.network_mb")
        if self._at_once > _AT_ONCE:
            raise Refused(503, f"{_AT_ONCE} connections are open, which is the limit of a sandbox")
        error: Exception = OSError("no address")
        for address in await self._allowed.addresses(host, port):
            try:
                async with asyncio.timeout(_DIAL_S):
                    return await asyncio.open_connection(str(address), port)
            except OSError as found:  # a time-out is one too
                error = found
        raise Refused(502, f"{host} port {port} cannot be reached ({error or 'no answer'})")

    def _passed(self, count: int) -> None:
        self.passed_bytes += count
        if self.passed_bytes > self._limit_bytes:
            raise ConnectionAbortedError("the limit of the network is passed")

    def _noted(self, method: str, host: str, port: int, status: int, why: str) -> None:
        self._log(Request(at=time.time(), method=method, host=host[:255], port=port, status=status, why=why))


def variables(address: tuple[str, int]) -> dict[str, str]:
    """Return the variables that lead programs to the proxy at `address`."""
    url = "http://{}:{}".format(*address)
    direct = f"localhost,127.0.0.1,::1,{ADDRESS[0]},gateway"
    lower = {"http_proxy": url, "https_proxy": url, "no_proxy": direct}
    return {**lower, **{name.upper(): value for name, value in lower.items()}, "NODE_USE_ENV_PROXY": "1"}


def _parsed(head: bytes) -> tuple[str, list[tuple[str, str]], str]:
    """Return method, header fields and target. Raises `Refused`: what two readers could read differently is refused."""
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not re.fullmatch(r"[A-Z]{3,16}", words[0]) or not re.fullmatch(r"HTTP/1\.[01]", words[2]):
        raise Refused(400, "no HTTP/1.1 request")
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\r\n\0]", value):
            raise Refused(400, "a header field is malformed")
        fields.append((name, value.strip()))
    if not re.fullmatch(r"[!-~]+", words[1]):
        raise Refused(400, "the target is malformed")
    return words[0], fields, words[1]


def _place(method: str, target: str) -> tuple[str, int, str]:
    """Return host, port and path of what is asked for. Raises `Refused`."""
    try:
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        port = url.port or (0 if method == "CONNECT" else 80)
    except ValueError as error:
        raise Refused(400, f"the target is malformed ({error})") from None
    if method != "CONNECT" and url.scheme != "http":
        raise Refused(400, "this is a proxy: ask for http://HOST/PATH, or CONNECT HOST:PORT for https")
    if not url.hostname or not port or url.username is not None:
        raise Refused(400, "the target names no HOST:PORT")
    path = url._replace(scheme="", netloc="", fragment="").geturl()
    return url.hostname, port, path if path.startswith("/") else f"/{path}"


def _length(fields: list[tuple[str, str]]) -> int:
    lengths = {value for name, value in fields if name.lower() == "content-length"}
    if any(name.lower() == "transfer-encoding" for name, _ in fields):
        raise Refused(411, "a body must come with its Content-Length")
    if len(lengths) > 1 or not all(re.fullmatch(r"\d{1,15}", value) for value in lengths):
        raise Refused(400, "Content-Length is malformed")
    return int(next(iter(lengths), "0"))


def _head(method: str, path: str, host: str, port: int, fields: list[tuple[str, str]]) -> bytes:
    place = f"[{host}]" if ":" in host else host
    kept = [(name, value) for name, value in fields if name.lower() not in _HOP_BY_HOP]
    ours = [("Host", place if port == 80 else f"{place}:{port}"), ("Connection", "close")]
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (*ours, *kept))]
    return "\r\n".join((*lines, "", "")).encode("latin-1")


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    outer: asyncio.StreamReader,
    to_outer: asyncio.StreamWriter,
    length: int,
    passed: Callable[[int], None],
) -> None:
    """Pass one request's body of `length` bytes and the answer to its end: what follows is not of this host."""

    async def upload() -> None:
        left = length
        while left and (data := await reader.read(min(left, _CHUNK))):
            passed(len(data))
            left -= len(data)
            to_outer.write(data)
            await to_outer.drain()

    uploading = asyncio.ensure_future(upload())
    try:
        while data := await outer.read(_CHUNK):
            passed(len(data))
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
    finally:
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)
        to_outer.transport.abort()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refused: Refused) -> None:
    text = str(refused)
    body = f"{text}\n".encode("latin-1", "replace")
    reason = text.encode("ascii", "replace").decode()[:300]  # many a program shows nothing but this
    head = f"HTTP/1.1 {refused.status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
    await writer.drain()
    writer.write_eof()
    with suppress(TimeoutError):  # what is still under way would reset the connection before the answer is read
        async with asyncio.timeout(_LINGER_S):
            while await reader.read(_CHUNK):
                pass
