"""The network: the gateway, loopback, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from palmette.sandbox.api import Host, Sandbox, Spec
from palmette.sandbox.conformance.box import READONLY, box, python

_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_CONNECT = """
import socket
def connect(host, port):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(10)
    s.connect((host, port))
    return s
"""


async def check_no_gateway_no_url(host: Host) -> None:
    async with box(host) as sandbox:
        assert sandbox.gateway_url is None


async def check_the_gateway_answers(host: Host) -> None:
    async def reverse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(5))[::-1])
        await writer.drain()
        writer.close()

    async with _served(host, reverse) as sandbox:
        program = f"{_CONNECT}\ns = connect{_address(sandbox)}\ns.sendall(b'hello')\nprint(s.recv(9).decode())"
        assert await python(sandbox, program) == b"olleh\n"


async def check_a_half_closed_connection_still_answers(host: Host) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()  # to the end: needs the half-close to come through
        writer.write(b"%d:" % len(data) + data)
        await writer.drain()
        writer.close()

    async with _served(host, count) as sandbox:
        program = f"""{_CONNECT}
import threading
s = connect{_address(sandbox)}
def send():
    s.sendall(b"x" * 3_000_000)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
data = b""
while part := s.recv(1 << 16):
    data += part
print(data[:9].decode(), len(data))
"""
        assert await python(sandbox, program) == b"3000000:x 3000008\n"


async def check_connections_run_side_by_side(host: Host) -> None:
    waiting = asyncio.Event()
    seen = 0

    async def gather(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        if seen == 8:
            waiting.set()
        await waiting.wait()  # nobody is answered before all eight are here
        writer.write(b"ok")
        await writer.drain()
        writer.close()

    async with _served(host, gather) as sandbox:
        program = (
            f"{_CONNECT}\nc = [connect{_address(sandbox)} for _ in range(8)]\nprint(b''.join(s.recv(9) for s in c))"
        )
        assert await python(sandbox, program) == b"b'okokokokokokokok'\n"


async def check_an_absent_gateway_closes_the_connection(host: Host) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with box(host, Spec(gateway=("127.0.0.1", port), readonly=READONLY)) as sandbox:
        program = f"""{_CONNECT}
try:
    print(connect{_address(sandbox)}.recv(9))
except ConnectionError as error:
    print(b"")
"""
        assert await python(sandbox, program) == b"b''\n"


async def check_connections_end_with_the_sandbox(host: Host) -> None:
    opened, ended = asyncio.Event(), asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.set()
        with suppress(ConnectionError):
            await reader.read()
        ended.set()
        writer.close()

    async with _served(host, watch) as sandbox:
        hold = python(sandbox, f"{_CONNECT}\nimport time\ns = connect{_address(sandbox)}\ntime.sleep(30)")
        task = asyncio.ensure_future(hold)
        await asyncio.wait_for(opened.wait(), 10)
        await sandbox.close()
        await asyncio.wait_for(ended.wait(), 5)
        await asyncio.gather(task, return_exceptions=True)


async def check_loopback_works_inside(host: Host) -> None:
    program = f"""{_CONNECT}
l = socket.create_server(("127.0.0.1", 0))
s = connect(*l.getsockname())
l.accept()[0].sendall(b"inside")
print(s.recv(9).decode())
"""
    async with box(host, Spec(readonly=READONLY)) as sandbox:
        assert await python(sandbox, program) == b"inside\n"


async def check_nothing_else_is_reachable(host: Host) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("the sandbox reached the host")

    server = await asyncio.start_server(never, "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    targets = [("127.0.0.1", port), ("192.0.2.1", 80), ("8.8.8.8", 53), ("::1", port), ("2001:db8::1", 80)]
    program = f"""{_CONNECT}
import errno
for host, port in {targets}:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        s.settimeout(2)
        try:
            s.connect((host, port))
            if s.getsockname() == s.getpeername():
                continue  # the kernel happened to give it that very port: it talks to itself
            s.send(b"x")
            s.recv(1)
            print("reached", host, port, kind)
        except OSError as error:
            assert error.errno in (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EADDRNOTAVAIL), (host, error)
print(sorted(name for _, name in socket.if_nameindex()))
"""
    async with server:
        for gateway in (None, ("127.0.0.1", port)):
            async with box(host, Spec(readonly=READONLY, gateway=gateway)) as sandbox:
                seen = await python(sandbox, program)
                assert seen == b"['lo']\n", seen


@asynccontextmanager
async def _served(host: Host, handler: _Handler) -> AsyncIterator[Sandbox]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server, box(host, Spec(gateway=server.sockets[0].getsockname(), readonly=READONLY)) as sandbox:
        yield sandbox


def _address(sandbox: Sandbox) -> tuple[str, int]:
    parts = urlsplit(sandbox.gateway_url or "")
    assert parts.scheme == "http", sandbox.gateway_url
    return str(parts.hostname), int(parts.port or 0)


CHECKS = {
    "": (
        check_no_gateway_no_url,
        check_the_gateway_answers,
        check_a_half_closed_connection_still_answers,
        check_connections_run_side_by_side,
        check_an_absent_gateway_closes_the_connection,
        check_connections_end_with_the_sandbox,
        check_loopback_works_inside,
    ),
    "network": (check_nothing_else_is_reachable,),
}
