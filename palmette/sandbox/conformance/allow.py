"""A network of a few hosts: what is on the list is reached, through the proxy, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from palmette.sandbox.api import Host, Limits, Sandbox, Spec
from palmette.sandbox.conformance.box import READONLY, box, python

_GET = """
import http.client, json, os, urllib.error, urllib.request
def get(url, data=None):
    try:
        with urllib.request.urlopen(url, data, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
"""
_TUNNEL = """
import http.client, json, os, urllib.parse
def tunnel(host, port):
    proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
    c = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=20)
    c.set_tunnel(host, port)
    try:
        c.request("GET", "/in-a-tunnel")
        return c.getresponse().read().decode()
    except OSError as error:
        return str(error)
"""
_BIG = 3 << 20


async def check_a_host_on_the_list_is_reached(host: Host) -> None:
    async with _site(host, "localhost@127.0.0.0/8:{port}") as (sandbox, port, _):
        said = await _said(sandbox, f"get('http://localhost:{port}/a?b=c', b'body')")
        assert said[0] == 200, said
        seen = json.loads(said[1])
        assert (seen["line"], seen["body"]) == ("POST /a?b=c HTTP/1.1", "body"), seen
        names = {name.lower(): value for name, value in seen["fields"]}
        assert (names["host"], names["connection"]) == (f"localhost:{port}", "close"), names
        assert not any(name.startswith("proxy") for name in names), names


async def check_a_tunnel_leads_to_it(host: Host) -> None:
    async with _site(host, "localhost@127.0.0.0/8:{port}") as (sandbox, port, _):
        seen = json.loads(await _said(sandbox, f"tunnel('localhost', {port})", _TUNNEL))
        assert seen["line"] == "GET /in-a-tunnel HTTP/1.1", seen


async def check_what_is_not_on_the_list_is_refused(host: Host) -> None:
    async with _site(host, "localhost@127.0.0.0/8:{port}") as (sandbox, port, seen):
        missing = {
            "http://example.invalid/": "example.invalid",
            f"http://127.0.0.1:{port}/": f"127.0.0.1:{port}",
            f"http://[::1]:{port}/": f"[::1]:{port}",
            "http://localhost/": "localhost",
        }
        answers = await _said(sandbox, f"[get(url) for url in {[*missing]}]")
        for (status, text), add in zip(answers, missing.values(), strict=True):
            assert (status, f'add "{add}" to Spec.network' in text, text.count("\n")) == (403, True, 1), text
        assert "403 example.invalid port 443" in await _said(sandbox, "tunnel('example.invalid', 443)", _TUNNEL)
        assert seen == []


async def check_a_name_that_leads_home_is_refused(host: Host) -> None:
    async with _site(host, "localhost:{port}", "*:{port}") as (sandbox, port, seen):
        status, text = await _said(sandbox, f"get('http://localhost:{port}/')")
        assert (status, 'write "localhost@' in text, seen) == (403, True, []), (status, text, seen)


async def check_a_redirect_leads_nowhere_else(host: Host) -> None:
    async with _site(host, "localhost@127.0.0.0/8:{port}") as (sandbox, port, seen):
        status, text = await _said(sandbox, f"get('http://localhost:{port}/away')")
        assert (status, "elsewhere.invalid" in text, len(seen)) == (403, True, 1), (status, text, seen)


async def check_the_network_is_bounded(host: Host) -> None:
    limits = Limits(network_mb=1)
    async with _site(host, "localhost@127.0.0.0/8:{port}", limits=limits) as (sandbox, port, _):
        short = await _said(sandbox, f"get('http://localhost:{port}/')")
        much = await _said(sandbox, f"get('http://localhost:{port}/big')")
        after = await _said(sandbox, f"get('http://localhost:{port}/')")
        assert (short[0], much[0], after[0]) == (200, 0, 403), (short, much[0], after)
        assert "1 MB of Limits.network_mb" in after[1], after


async def check_without_a_list_there_is_no_proxy(host: Host) -> None:
    async with box(host, Spec(readonly=READONLY)) as sandbox:
        program = "import os\nprint([name for name in os.environ if 'proxy' in name.lower()])"
        assert await python(sandbox, program) == b"[]\n"


async def check_the_gateway_is_beside_the_list(host: Host) -> None:
    async with _site(host, "somewhere.invalid") as (_, port, seen):
        spec = Spec(readonly=READONLY, network=("somewhere.invalid",), gateway=("127.0.0.1", port))
        async with box(host, spec) as sandbox:
            program = f"print(get('{sandbox.gateway_url}/v1')[0])"  # as its own variables say
            status = int(await python(sandbox, f"{_GET}\n{program}"))
            assert (status, [line for line, *_ in seen]) == (200, ["GET /v1 HTTP/1.1"]), (status, seen)


async def _said(sandbox: Sandbox, call: str, library: str = _GET) -> Any:
    """Return what a call returns in the sandbox, with only the gateway's address left out of the proxy's hands."""
    direct = "for name in ('no_proxy', 'NO_PROXY'): os.environ[name] = '127.77.0.1' if name in os.environ else ''"
    return json.loads(await python(sandbox, f"{library}\n{direct}\nprint(json.dumps({call}))"))


@asynccontextmanager
async def _site(host: Host, *entries: str, limits: Limits | None = None) -> AsyncIterator[tuple[Sandbox, int, list]]:
    """Serve HTTP on loopback, to a sandbox with these entries; what was asked for comes along."""
    seen: list[tuple[str, list, str]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode()[:-4].split("\r\n")
            fields = [each.split(": ", 1) for each in lines]
            length = next((int(value) for name, value in fields if name.lower() == "content-length"), 0)
            seen.append((line, fields, (await reader.readexactly(length)).decode()))
            body = json.dumps({"line": line, "fields": fields, "body": seen[-1][2]}).encode()
            away = "/away" in line
            if "/big" in line:
                body = b"x" * _BIG
            head = "302 Found\r\nLocation: http://elsewhere.invalid/" if away else "200 OK"
            writer.write(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    spec = Spec(readonly=READONLY, network=tuple(entry.format(port=port) for entry in entries))
    async with server, box(host, replace(spec, limits=limits) if limits else spec) as sandbox:
        yield sandbox, port, seen


CHECKS = {
    "allow": (
        check_a_host_on_the_list_is_reached,
        check_a_tunnel_leads_to_it,
        check_what_is_not_on_the_list_is_refused,
        check_a_name_that_leads_home_is_refused,
        check_a_redirect_leads_nowhere_else,
        check_the_network_is_bounded,
        check_without_a_list_there_is_no_proxy,
        check_the_gateway_is_beside_the_list,
    ),
}
