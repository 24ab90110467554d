"""The list of hosts that a sandbox may reach, and the proxy that keeps to it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.sandbox import traffic
from palmette.sandbox.allow_list import AllowList, Refused, parse, public
from palmette.sandbox.api import Limits, Spec
from palmette.sandbox.hosts import open_host
from palmette.sandbox.proxy import Proxy, Request
from palmette.sandbox.relay import Relay

_HOME = ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "0.0.0.0", "::")
_NEAR = ("10.1.2.3", "172.16.0.9", "192.168.1.1", "169.254.169.254", "100.64.0.1", "fe80::1", "fd00::1", "224.0.0.1")


@pytest.mark.parametrize("address", [*_HOME, *_NEAR])
async def test_no_name_leads_to_a_private_address(address: str):
    async def resolve(_: str) -> list[str]:
        return [address]

    for entries in (["a.example"], ["*.example"], ["*"]):
        with pytest.raises(Refused, match="is not public") as refused:
            await AllowList(entries, resolve).addresses("a.example", 443)
        assert refused.value.status == 403


async def test_a_name_is_asked_for_once_and_each_address_is_judged():
    answers = iter([["8.8.8.8"], ["127.0.0.1", "9.9.9.9", "10.0.0.1"], ["127.0.0.1"]])

    async def resolve(_: str) -> list[str]:
        return next(answers)

    allowed = AllowList(["a.example"], resolve)
    assert await allowed.addresses("A.example.", 80) == [ip_address("8.8.8.8")]
    assert await allowed.addresses("a.example", 80) == [ip_address("9.9.9.9")]
    with pytest.raises(Refused, match=r'a\.example leads to 127\.0\.0\.1.*write "a\.example@127\.0\.0\.1"'):
        await allowed.addresses("a.example", 80)


async def test_where_a_name_may_lead_can_be_said():
    async def resolve(_: str) -> list[str]:
        return ["8.8.8.8", "10.1.0.1", "::ffff:10.1.0.2"]

    found = await AllowList(["mirror.corp@10.1.0.0/16:8080"], resolve).addresses("mirror.corp", 8080)
    assert found == [ip_address("10.1.0.1"), ip_address("10.1.0.2")]
    with pytest.raises(Refused, match="not on the list"):
        await AllowList(["mirror.corp@10.1.0.0/16:8080"], resolve).addresses("mirror.corp", 80)


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "2130706433", "localhost", "127.0.0.1"])
async def test_other_ways_to_write_home_lead_nowhere(host: str):
    with pytest.raises(Refused):
        await AllowList(["*"]).addresses(host, 80)


def test_an_address_of_this_machine_is_not_public(monkeypatch: pytest.MonkeyPatch):
    assert public(ip_address("8.8.8.8"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        own = ip_address(probe.getsockname()[0])
    monkeypatch.setattr(type(own), "is_global", True)  # as where it is one of the internet
    assert not public(own)


@pytest.mark.parametrize(
    ("entry", "host", "port", "fits"),
    [
        ("pypi.example", "pypi.example", 443, True),
        ("pypi.example", "pypi.example", 8080, False),
        ("pypi.example", "evil-pypi.example", 443, False),
        ("pypi.example", "pypi.example.evil", 443, False),
        ("*.pypi.example", "files.pypi.example", 80, True),
        ("*.pypi.example", "a.b.pypi.example", 80, True),
        ("*.pypi.example", "pypi.example", 80, False),
        ("*.pypi.example", "evilpypi.example", 80, False),
        ("PyPI.example:8080", "pypi.EXAMPLE", 8080, True),
        ("PyPI.example:8080", "pypi.example", 443, False),
    ],
)
async def test_names_and_ports(entry: str, host: str, port: int, fits: bool):
    async def resolve(_: str) -> list[str]:
        return ["8.8.8.8"]

    if fits:
        assert await AllowList([entry], resolve).addresses(host, port)
    else:
        with pytest.raises(Refused, match="not on the list"):
            await AllowList([entry], resolve).addresses(host, port)


@pytest.mark.parametrize(
    "entry",
    ["", "http://a.example", "a.*.example", "*a.example", "a b", "a:0", "a:70000", "a@10.0.0.1/8", "a@b", "a/b"],
)
async def test_what_is_no_entry_is_said(entry: str):
    with pytest.raises(ValueError, match=r"^Spec\.network: .* is no \[\*\.\]NAME\[@NETWORK\]\[:PORT\]"):
        parse(entry)
    host = open_host("fake")
    with pytest.raises(ValueError, match=r"Spec\.network"):
        await host.start(Spec(network=(entry,)))
    with pytest.raises(ValueError, match="a tuple of entries"):
        await host.start(Spec(network="a.example"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"Limits\.network_mb must be positive"):
        await host.start(Spec(limits=Limits(network_mb=0)))


@given(st.text(max_size=40))
def test_any_text_is_an_entry_or_is_not(text: str):
    try:
        entry = parse(text)
    except ValueError:
        return
    assert entry.ports
    assert entry.name == entry.name.lower()


@asynccontextmanager
async def _proxy(*entries: str, limit_bytes: int = 1 << 20) -> AsyncIterator[tuple[tuple[str, int], list[Request]]]:
    log: list[Request] = []
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    relay = Relay(listener, Proxy(AllowList(entries), limit_bytes=limit_bytes, log=log.append).serve)
    yield address, log
    relay.close()


async def _raw(address: tuple[str, int], data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    found = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return found


_TO = "localhost@127.0.0.0/8:{port}"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET https://localhost:%d/ HTTP/1.1\r\n\r\n", 400),
        (b"GET http://u@localhost:%d/ HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT localhost HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT localhost:x HTTP/1.1\r\n\r\n", 400),
        (b"GET http://localhost:%d/ HTTP/1.1\r\nA: b\nHost: other\r\n\r\n", 400),
        (b"GET http://localhost:%d/ HTTP/1.1\r\n folded\r\n\r\n", 400),
        (b"POST http://localhost:%d/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        (b"POST http://localhost:%d/ HTTP/1.1\r\nContent-Length: +1\r\n\r\nx", 400),
        (b"POST http://localhost:%d/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused(request_: bytes, status: int):
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it was passed on")

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, _proxy(_TO.format(port=port)) as (address, log):
        said = await _raw(address, request_ % port if b"%d" in request_ else request_)
        assert said.startswith(b"HTTP/1.1 %d " % status), said
        assert [request.status for request in log] == [status]


async def test_one_request_a_connection_and_no_more_than_its_body():
    got = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readuntil(b"body"))
        await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, _proxy(_TO.format(port=port)) as (address, log):
        first = b"POST http://localhost:%d/x HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody" % port
        said = await _raw(address, first + b"GET http://other/ HTTP/1.1\r\n\r\n")
        assert said.endswith(b"ok")
        assert b"other" not in got
        assert [(request.host, request.port, request.status) for request in log] == [("localhost", port, 200)]


async def test_a_host_that_is_not_there_is_said():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with _proxy(_TO.format(port=port), "a.invalid") as (address, log):
        said = await _raw(address, b"CONNECT localhost:%d HTTP/1.1\r\n\r\n" % port)
        assert said.startswith(b"HTTP/1.1 502 localhost port"), said
        said = await _raw(address, b"CONNECT a.invalid:443 HTTP/1.1\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 502 a.invalid does not resolve"), said
        assert [request.status for request in log] == [502, 502]


async def test_every_request_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(traffic, "_LARGEST", 2000)
    host = open_host("fake")
    sandbox = await host.start(Spec(owner="who", network=("a.invalid",)))
    address = (await sandbox.exec("echo $HTTP_PROXY")).stdout.decode().strip().removeprefix("http://").split(":")
    for number in range(12):
        await _raw((address[0], int(address[1])), b"GET http://b%d.invalid/ HTTP/1.1\r\n\r\n" % number)
    await host.close()
    old = traffic.log_path().with_suffix(".old.jsonl")
    rows = [json.loads(line) for path in (old, traffic.log_path()) for line in path.read_text().splitlines()]
    last = rows[-1]
    assert (last["owner"], last["host"], last["status"], last["method"]) == ("who", "b11.invalid", 403, "GET")
    assert last["sandbox"] == sandbox.id
    assert len(traffic.log_path().read_bytes()) < 2500
