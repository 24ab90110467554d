"""The E2B-compatible API: the conformance suite against a small service of our own, which speaks the same HTTP and runs
the commands in bubblewrap (the e2b package itself, 2.63, was run against it by hand: create, run, write, kill).
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import struct
import sys
from typing import Any

import pytest
from aiohttp import web

from palmette.sandbox import enter_box
from palmette.sandbox.api import SandboxError, SandboxLost, Spec, StartFailed
from palmette.sandbox.bubblewrap import BubblewrapHost, BubblewrapSandbox
from palmette.sandbox.conformance import CHECKS, Check, lacks
from palmette.sandbox.e2b import E2BHost

KEY = "e2b_test"


class SmallService:
    """Both ends of the API in one server: paths, headers and framing are the real ones."""

    def __init__(self) -> None:
        self.boxes: dict[str, BubblewrapSandbox] = {}
        self.asked: list[dict[str, Any]] = []
        self._host = BubblewrapHost()
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/sandboxes", self._create)
        app.router.add_delete("/sandboxes/{id}", self._delete)
        app.router.add_post("/process.Process/Start", self._run)
        app.router.add_post("/files", self._put)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> SmallService:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._host.close()
        await self._runner.cleanup()

    async def _create(self, request: web.Request) -> web.Response:
        if request.headers.get("X-API-Key") != KEY:
            return web.json_response({"code": 401, "message": "Invalid API key"}, status=401)
        self.asked.append(await request.json())
        try:
            box = await self._host.start(Spec(workdir="/nowhere"))
        except SandboxError as error:
            pytest.skip(f"bubblewrap does not work here: {error}")
        name = f"i{len(self.asked)}"
        self.boxes[name] = box
        made = {"sandboxID": name, "templateID": "base", "clientID": "small", "envdVersion": "0.4.0"}
        return web.json_response({**made, "envdAccessToken": f"t-{name}"}, status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        box = self.boxes.pop(request.match_info["id"], None)
        if box is None:
            return web.json_response({"code": 404, "message": "not found"}, status=404)
        await box.close()
        return web.Response(status=204)

    def _box(self, request: web.Request) -> BubblewrapSandbox:
        name = request.headers["E2b-Sandbox-Id"]
        if name not in self.boxes or request.headers["X-Access-Token"] != f"t-{name}":
            raise web.HTTPBadGateway(text="sandbox not found")
        return self.boxes[name]

    async def _put(self, request: web.Request) -> web.Response:
        box = self._box(request)
        form = await request.post()
        await box.write(request.query["path"], form["file"].file.read())  # pyright: ignore
        path = request.query["path"]
        return web.json_response([{"name": path.rpartition("/")[2], "type": "file", "path": path}])

    async def _run(self, request: web.Request) -> web.StreamResponse:
        box = self._box(request)
        assert request.content_type == "application/connect+json"
        assert request.headers.get("Authorization", "Basic ").startswith("Basic ")
        body = await request.read()
        assert struct.unpack(">BI", body[:5]) == (0, len(body) - 5)
        process = json.loads(body[5:])["process"]
        answer = web.StreamResponse(headers={"Content-Type": "application/connect+json"})
        await answer.prepare(request)
        argv = [process["cmd"], *process["args"]]
        argv = [word.replace("chown user:user", "true").replace("chown -R user:user", "true") for word in argv]
        enter = [
            sys.executable,
            "-I",
            "-S",
            enter_box.__file__,
            "run",
            str(box._pid),
            "1000",
            "",
            process.get("cwd") or "/",
        ]
        variables = {"PATH": "/usr/bin:/bin", **process.get("envs", {})}
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
        child = await asyncio.create_subprocess_exec(*enter, *argv, env=variables, stdin=-3, **pipes)
        await _send(answer, {"event": {"start": {"pid": child.pid}}})
        assert child.stdout
        assert child.stderr
        try:
            await asyncio.gather(_copy(child.stdout, "stdout", answer), _copy(child.stderr, "stderr", answer))
            code = await child.wait()
            code = 128 - code if code < 0 else code
            end = {"exited": True, "status": f"exit status {code}", **({"exitCode": code} if code else {})}
            await _send(answer, {"event": {"end": end}})
            await _send(answer, {}, flags=2)
        except ConnectionError:
            pass
        return answer


async def _send(answer: web.StreamResponse, message: Any, flags: int = 0) -> None:
    text = json.dumps(message).encode()
    await answer.write(struct.pack(">BI", flags, len(text)) + text)


async def _copy(source: asyncio.StreamReader, name: str, answer: web.StreamResponse) -> None:
    while data := await source.read(1 << 15):
        await _send(answer, {"event": {"data": {name: base64.b64encode(data).decode()}}})


@pytest.fixture
async def service():
    if shutil.which("bwrap") is None:
        pytest.skip("the small service runs its sandboxes in bubblewrap, which is not installed")
    async with SmallService() as service:
        yield service


@pytest.fixture
async def host(service: SmallService):
    host = E2BHost(api_url=service.url, sandbox_url=service.url, key=KEY)
    yield host
    await host.close()


# Not the adapter's to promise: a cloud's sandboxes reach no gateway of ours, and daemons hold up a command's end.
_BEYOND = {
    *("the_gateway_answers", "a_half_closed_connection_still_answers", "connections_run_side_by_side"),
    *("an_absent_gateway_closes_the_connection", "connections_end_with_the_sandbox"),
    "a_daemon_does_not_hold_up_its_command",
}
ORDINARY = [check for check in CHECKS if check.name not in _BEYOND and not check.name.startswith("abuse_")]


@pytest.mark.parametrize("check", ORDINARY, ids=lambda check: check.name)
async def test_conformance(host: E2BHost, check: Check):
    if check.need in lacks(host):
        pytest.skip(f"the API does not promise {check.need}")
    await check.run(host)


async def test_what_is_asked_for(service: SmallService, host: E2BHost, monkeypatch: pytest.MonkeyPatch):
    sandbox = await host.start(Spec(owner="demo/rl", ttl_s=77))
    asked = service.asked[0]
    assert (asked["templateID"], asked["timeout"], asked["metadata"]) == ("base", 77, {"palmette.owner": "demo/rl"})
    assert (asked["allow_internet_access"], sandbox.gateway_url) == (False, None)
    monkeypatch.setenv("PALMETTE_GATEWAY_URL", "https://gateway.invalid")
    reachable = await host.start(Spec(gateway=("127.0.0.1", 1)))
    assert reachable.gateway_url == "https://gateway.invalid"
    await host.close()
    assert service.boxes == {}


async def test_failures_are_one_line(service: SmallService, host: E2BHost, monkeypatch: pytest.MonkeyPatch):
    for spec, said in (
        (Spec(root="/x"), r"Spec\.root: files of this machine"),
        (Spec(readonly=("/opt",)), r"Spec\.readonly: .*template"),
        (Spec(gateway=("127.0.0.1", 1)), "PALMETTE_GATEWAY_URL"),
    ):
        with pytest.raises(StartFailed, match=said):
            await host.start(spec)
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    with pytest.raises(StartFailed, match=r"E2B_API_KEY is not set.*'namespace'"):
        await E2BHost(api_url=service.url).start(Spec())
    wrong = E2BHost(api_url=service.url, key="wrong")
    with pytest.raises(StartFailed, match=r"401 .*Invalid API key"):
        await wrong.start(Spec())
    await wrong.close()


async def test_a_sandbox_that_is_gone_is_lost(service: SmallService, host: E2BHost):
    sandbox = await host.start(Spec())
    await service.boxes.pop(sandbox.id).close()
    with pytest.raises(SandboxLost):
        await sandbox.exec("true")
    with pytest.raises(SandboxLost):
        await sandbox.read("x")
