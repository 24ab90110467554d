"""Servers in a sandbox, reached from its host: and nothing that leads the other way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

from palmette.sandbox.api import Exposed, Host, Ports, Sandbox, SandboxLost, Spec
from palmette.sandbox.conformance.box import PYTHON, READONLY, box, python, raised

_SPEC = Spec(owner="conformance", readonly=READONLY)
_SERVER = """
import os, socket, sys, threading
family = socket.AF_INET6 if sys.argv[1] == "::1" else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[3])), family=family)
def answer(c):
    data = b""
    while part := c.recv(1 << 16):
        data += part
    c.sendall(sys.argv[2].encode() + b":%d:" % len(data) + data)
    c.close()
open("port.new", "w").write(str(server.getsockname()[1]))
os.rename("port.new", "port")
while True:
    threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()
"""
_OFFERED = ("127.77.1.9", 8090)
_ASKING = f"""
import socket
try:
    with socket.create_connection({_OFFERED}, timeout=20) as s:
        s.sendall(b"hello")
        s.shutdown(socket.SHUT_WR)
        print(s.makefile("rb").read().decode())
except ConnectionRefusedError:
    print("refused")
except OSError:  # cut off at one moment or another
    print()
"""


async def check_a_server_inside_is_reached(host: Host) -> None:
    async with box(host, _SPEC) as sandbox:
        exposed = await _ports(sandbox).expose(await _serving(sandbox))
        assert exposed.url.startswith("http://127.0.0.1:"), exposed.url
        assert await _ask(exposed, b"hello") == b"x:5:hello"
        assert await _ask(exposed, b"again") == b"x:5:again"


async def check_much_goes_both_ways(host: Host) -> None:
    data = bytes(range(256)) * 12_000
    async with box(host, _SPEC) as sandbox:
        exposed = await _ports(sandbox).expose(await _serving(sandbox))
        assert await _ask(exposed, data) == b"x:%d:" % len(data) + data


async def check_visitors_are_served_side_by_side(host: Host) -> None:
    async with box(host, _SPEC) as sandbox:
        exposed = await _ports(sandbox).expose(await _serving(sandbox))
        reader, writer = await _visit(exposed)  # says nothing yet, and holds nobody up
        answers = await asyncio.gather(*(_ask(exposed, b"%d" % number) for number in range(8)))
        assert answers == [b"x:1:%d" % number for number in range(8)], answers
        writer.write_eof()
        assert await reader.read() == b"x:0:"
        writer.close()


async def check_a_server_on_the_newer_loopback_is_reached(host: Host) -> None:
    async with box(host, _SPEC) as sandbox:
        exposed = await _ports(sandbox).expose(await _serving(sandbox, address="::1"))
        assert await _ask(exposed, b"six") == b"x:3:six"


async def check_a_server_may_come_later(host: Host) -> None:
    async with box(host, _SPEC) as sandbox:
        port = await _serving(sandbox)
        await sandbox.exec("kill -9 $(cat pid); rm port; while kill -0 $(cat pid); do sleep 0.02; done")
        ports = _ports(sandbox)
        assert str(port) in await raised(ports.connect(port), ConnectionRefusedError)
        exposed = await ports.expose(port)
        assert await _ask(exposed, b"early") == b""  # let in, and cut off
        later = await _serving(sandbox)
        assert await _ask(await ports.expose(later), b"late") == b"x:4:late"


async def check_a_port_that_is_closed_is_closed(host: Host) -> None:
    async with box(host, _SPEC) as sandbox:
        exposed = await _ports(sandbox).expose(await _serving(sandbox))
        reader, writer = await _visit(exposed)
        await exposed.close()
        await exposed.close()
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await raised(_visit(exposed), ConnectionError)


async def check_what_is_exposed_ends_with_the_sandbox(host: Host) -> None:
    async with box(host, _SPEC) as sandbox:
        port = await _serving(sandbox)
        exposed = await _ports(sandbox).expose(port)
        reader, writer = await _visit(exposed)
        writer.write(b"x")
        await sandbox.close()
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await raised(_visit(exposed), ConnectionError)
        await raised(_ports(sandbox).expose(port), SandboxLost)
        await raised(_ports(sandbox).connect(port), SandboxLost)


async def check_a_port_is_a_number_of_one(host: Host) -> None:
    async with box(host, _SPEC) as sandbox:
        for port in (0, -1, 65536):
            await raised(_ports(sandbox).expose(port), ValueError, port)
            await raised(_ports(sandbox).connect(port), ValueError, port)


async def check_the_same_port_of_two_sandboxes(host: Host) -> None:
    async with box(host, _SPEC) as one, box(host, _SPEC) as other:
        port = await _serving(one, name="one")
        await raised(_ports(other).connect(port), ConnectionRefusedError)
        await _serving(other, name="other", port=port)
        for sandbox, said in ((one, b"one:1:1"), (other, b"other:1:1")):
            assert await _ask(await _ports(sandbox).expose(port), b"1") == said


async def check_an_exposed_port_does_not_lead_out(host: Host) -> None:
    async with box(host, _SPEC) as sandbox, box(host, _SPEC) as other:
        exposed = await _ports(sandbox).expose(await _serving(sandbox))
        port = urlsplit(exposed.url).port
        program = f"""
import socket
s = socket.socket()
try:
    s.connect(("127.0.0.1", {port}))
    print(s.getsockname() == s.getpeername())
except ConnectionRefusedError:
    print(True)
"""
        for each in (sandbox, other):
            assert await python(each, program) == b"True\n"


async def check_a_server_is_offered_to_another_sandbox(host: Host) -> None:
    async with box(host, _SPEC) as one, box(host, _SPEC) as other:
        port = await _serving(one)
        offered = await _ports(other).offer(_OFFERED, lambda: _ports(one).connect(port))
        assert offered.url == f"http://{_OFFERED[0]}:{_OFFERED[1]}"
        assert await python(other, _ASKING) == b"x:5:hello\n"
        await raised(_ports(other).offer(_OFFERED, lambda: _ports(one).connect(port)), OSError)
        await one.close()
        assert await python(other, _ASKING) == b"\n"  # let in, and cut off
        await offered.close()
        assert await python(other, _ASKING) == b"refused\n"


def _ports(sandbox: Sandbox) -> Ports:
    assert isinstance(sandbox, Ports), type(sandbox)
    return sandbox


async def _serving(sandbox: Sandbox, *, address: str = "127.0.0.1", name: str = "x", port: int = 0) -> int:
    """Start a server that says its name, how much it was sent, and that; return its port."""
    await sandbox.write("server.py", _SERVER.encode())
    start = f"{PYTHON} -I server.py {address} {name} {port} >/dev/null 2>&1 & echo $! > pid"
    await sandbox.exec(f"{start}; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.$i; [ -e port ] && exit; done")
    return int(await sandbox.read("port"))


async def _visit(exposed: Exposed) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(exposed.url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def _ask(exposed: Exposed, data: bytes) -> bytes:
    reader, writer = await _visit(exposed)
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


CHECKS = {
    "ports": (
        check_a_server_inside_is_reached,
        check_much_goes_both_ways,
        check_visitors_are_served_side_by_side,
        check_a_server_on_the_newer_loopback_is_reached,
        check_a_server_may_come_later,
        check_a_port_that_is_closed_is_closed,
        check_what_is_exposed_ends_with_the_sandbox,
        check_a_port_is_a_number_of_one,
        check_a_server_is_offered_to_another_sandbox,
    ),
    "network": (check_the_same_port_of_two_sandboxes, check_an_exposed_port_does_not_lead_out),
}
