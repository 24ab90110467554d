"""Containers through the Docker Engine API: the conformance suite against an engine that runs here, or against a
small one of our own, which speaks the same HTTP over a real unix socket and runs the commands in bubblewrap.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import struct
import sys
import tarfile
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from palmette.sandbox import enter_box
from palmette.sandbox.api import Limits, PathRefused, SandboxError, SandboxLost, Spec, StartFailed
from palmette.sandbox.bubblewrap import BubblewrapHost, BubblewrapSandbox
from palmette.sandbox.conformance import CHECKS, Check, lacks
from palmette.sandbox.docker import DockerHost
from palmette.sandbox.docker_engine import find_socket
from palmette.sandbox.ledger import journals
from palmette.sandbox.reap import reap
from palmette.sandbox.shell_files import rebuilt

IMAGE = "debian:bookworm-slim"


class SmallEngine:
    """As much of an engine as a sandbox host asks for: answers, status codes and the framing are the real ones."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.images: dict[str, bytes] = {IMAGE: b""}
        self.created: dict[str, dict[str, Any]] = {}
        self.boxes: dict[str, BubblewrapSandbox] = {}
        self._execs: dict[str, dict[str, Any]] = {}
        self._host = BubblewrapHost()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> SmallEngine:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._host.close()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, target, _ = head.split(b"\r\n")[0].decode().split()
                body = await _body(reader, head.decode().lower())
                if match := re.fullmatch(r"/v1\.41/exec/(\w+)/start", target):
                    await self._attached(match[1], reader, writer)
                    return
                status, answer = await self._answer(method, urlsplit(target), body)
                text = json.dumps(answer).encode() if answer is not None else b""
                kind = b"Content-Type: application/json\r\n" if text else b""
                writer.write(b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s" % (status, kind, len(text), text))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, method: str, url: Any, body: bytes) -> tuple[int, Any]:
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match method, *unquote(url.path).removeprefix("/v1.41/").split("/"):
            case "POST", "containers", "create":
                config = json.loads(body)
                if config["Image"] not in self.images:
                    return 404, {"message": f"No such image: {config['Image']}"}
                self.created[query["name"]] = config
                return 201, {"Id": query["name"], "Warnings": []}
            case "POST", "containers", name, "start":
                await self._start(name)
                return 204, None
            case "GET", "containers", name, "json" if name in self.boxes:
                return 200, {"Id": name, "State": {"Running": True, "Pid": self.boxes[name]._pid}}
            case "POST", "containers", name, "exec" if name in self.boxes:
                number = uuid.uuid4().hex
                self._execs[number] = {
                    "container": name,
                    "config": json.loads(body),
                    "Running": False,
                    "ExitCode": None,
                    "Pid": 0,
                }
                return 201, {"Id": number}
            case "GET", "exec", number, "json":
                state = self._execs[number]
                return 200, {"ID": number} | {name: state[name] for name in ("Running", "ExitCode", "Pid")}
            case "DELETE", "containers", name if name in self.boxes:
                await self.boxes.pop(name).close()
                return 204, None
            case "GET", "containers", "json":
                (label,) = json.loads(query["filters"])["label"]
                labels = {name: self.created[name]["Labels"].items() for name in self.boxes}
                found = [name for name, each in labels.items() if tuple(label.split("=", 1)) in each]
                return 200, [{"Id": name} for name in found]
            case "GET", "images", name, "json" if name in self.images:
                return 200, {"Id": name}
            case "POST", "images", "create":
                self.images[query["repo"]] = body
                return 200, {"status": "imported"}
        return 404, {"message": f"No such container: {url.path}"}

    async def _start(self, name: str) -> None:
        config = self.created[name]
        bounds = config["HostConfig"]
        spec = Spec(
            env=dict(pair.split("=", 1) for pair in config["Env"]),
            workdir="/nowhere",
            readonly=tuple(bind.split(":")[0] for bind in bounds["Binds"]),
            limits=Limits(memory_mb=bounds["Memory"] >> 20, pids=bounds["PidsLimit"]),
        )
        try:
            self.boxes[name] = await self._host.start(spec)
        except SandboxError as error:
            pytest.skip(f"bubblewrap does not work here: {error}")

    async def _attached(self, number: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state = self._execs[number]
        config, container = state["config"], state["container"]
        variables = [*self.created[container]["Env"], *config.get("Env", [])]
        state["Running"] = True
        writer.write(b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\r\n")
        enter = [sys.executable, "-I", "-S", enter_box.__file__, "run", str(self.boxes[container]._pid), "1000", ""]
        process = await asyncio.create_subprocess_exec(
            *enter,
            config.get("WorkingDir") or "/",
            *("setsid", "-w", *config["Cmd"]),
            env=dict(pair.split("=", 1) for pair in variables),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr
        streams = [
            asyncio.ensure_future(_frames(process.stdout, 1, writer)),
            asyncio.ensure_future(_frames(process.stderr, 2, writer)),
        ]
        state["Pid"] = process.pid  # of the start, also after the end
        feeding = asyncio.ensure_future(_pump(reader, process.stdin))
        try:
            while process.returncode is None:  # `wait` would also wait for whoever holds its output
                await asyncio.sleep(0.01)
            code = process.returncode
            state.update(Running=False, ExitCode=128 - code if code < 0 else code)
            await asyncio.gather(*streams)  # a daemon may keep them open
        finally:
            for task in (feeding, *streams):
                task.cancel()
            await asyncio.gather(feeding, *streams, return_exceptions=True)


async def _body(reader: asyncio.StreamReader, head: str) -> bytes:
    if match := re.search(r"content-length: (\d+)", head):
        return await reader.readexactly(int(match[1]))
    found = bytearray()
    while "transfer-encoding: chunked" in head:
        size = int(await reader.readuntil(b"\r\n"), 16)
        found += (await reader.readexactly(size + 2))[:-2]
        if not size:
            break
    return bytes(found)


async def _frames(source: asyncio.StreamReader, kind: int, writer: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 16):
        writer.write(struct.pack(">BxxxI", kind, len(data)) + data)
        await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


@pytest.fixture
async def engine(tmp_path: Path):
    if shutil.which("bwrap") is None:
        pytest.skip("the small engine runs its containers in bubblewrap, which is not installed")
    async with SmallEngine(str(tmp_path / "engine.sock")) as engine:
        yield engine


@pytest.fixture(params=["small", "real"])
async def host(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "real":
        if find_socket() is None:
            pytest.skip("no Docker or Podman engine runs here")
        host = DockerHost()
        yield host
        await host.close()
        return
    if shutil.which("bwrap") is None:
        pytest.skip("the small engine runs its containers in bubblewrap, which is not installed")
    async with SmallEngine(str(tmp_path / "small.sock")) as engine:
        host = DockerHost(engine.path)
        yield host
        await host.close()


# The abuse suite is about walls that an engine has or has not, and ours is no engine.
ORDINARY = [check for check in CHECKS if not check.name.startswith("abuse_")]


@pytest.mark.parametrize("check", ORDINARY, ids=lambda check: check.name)
async def test_conformance(host: DockerHost, check: Check):
    if check.need in lacks(host):
        pytest.skip(f"containers lack {check.need}")
    await check.run(host)


async def test_what_a_container_may_do(engine: SmallEngine):
    host = DockerHost(engine.path)
    sandbox = await host.start(Spec(owner="demo/rl", limits=Limits(memory_mb=100, pids=20), readonly=("/opt",)))
    config = engine.created[sandbox.id]
    bounds = config["HostConfig"]
    assert (config["User"], config["Labels"]["palmette.owner"]) == ("1000:1000", "demo/rl")
    assert (bounds["NetworkMode"], bounds["CapDrop"], bounds["SecurityOpt"]) == ("none", ["ALL"], ["no-new-privileges"])
    assert (bounds["Memory"], bounds["MemorySwap"], bounds["PidsLimit"]) == (100 << 20, 100 << 20, 23)
    assert (bounds["Binds"], bounds["Init"], bounds["AutoRemove"]) == (["/opt:/opt:ro"], True, True)
    await host.close()
    assert engine.boxes == {}


async def test_an_image_is_imported_once(engine: SmallEngine, small_root: Path):
    host = DockerHost(engine.path)
    first, second = [await host.start(Spec(root=str(small_root))) for _ in range(2)]
    name = f"palmette-{small_root.parent.name}"
    assert {engine.created[each.id]["Image"] for each in (first, second)} == {name}
    with tarfile.open(fileobj=io.BytesIO(engine.images[name])) as tar:
        assert "./etc/base" in tar.getnames()
    await host.close()


async def test_containers_of_a_dead_owner_are_removed(
    engine: SmallEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    dead, other = DockerHost(engine.path), DockerHost(engine.path)
    left, kept = await dead.start(Spec(owner="left")), await other.start(Spec(owner="kept"))
    assert {(e.id, e.owner) for journal in journals() for e in journal.entries} == {
        (left.id, "left"),
        (kept.id, "kept"),
    }
    (path,) = [journal.path for journal in journals() if journal.entries[0].id == left.id]
    head, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(head), "started": "1"}), *rest, ""]))
    os.rename(engine.path, f"{engine.path}.away")
    reaped = await asyncio.to_thread(reap)  # the engine is away: its journal must stay
    assert (reaped.containers, len(reaped.stuck), path.exists()) == (0, 1, True)
    os.rename(f"{engine.path}.away", engine.path)
    reaped = await asyncio.to_thread(reap)
    assert (reaped.hosts, reaped.containers, reaped.stuck, path.exists()) == (1, 1, (), False)
    assert list(engine.boxes) == [kept.id]
    await kept.close()
    assert [e for journal in journals() for e in journal.entries] == []
    await dead.close()
    await other.close()
    assert list(journals()) == []


async def test_failures_are_one_line(engine: SmallEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    host = DockerHost(engine.path, image="missing:1")
    with pytest.raises(
        StartFailed, match="No such image: missing:1: docker pull missing:1, or set PALMETTE_DOCKER_IMAGE"
    ):
        await host.start(Spec())
    with pytest.raises(StartFailed, match=r"Spec\.root: .*/nowhere: No such directory"):
        await host.start(Spec(root=str(tmp_path / "nowhere")))
    await host.close()
    host = DockerHost(str(tmp_path / "no.sock"))
    with pytest.raises(StartFailed, match=r"no\.sock cannot be reached"):
        await host.start(Spec())
    await host.close()
    monkeypatch.setenv("DOCKER_HOST", "tcp://nowhere")
    with pytest.raises(StartFailed, match=r"no Docker or Podman socket.*'namespace'"):
        await DockerHost().start(Spec())


async def test_a_container_that_is_gone_is_lost(engine: SmallEngine):
    host = DockerHost(engine.path)
    sandbox = await host.start(Spec())
    await engine.boxes.pop(sandbox.id).close()
    with pytest.raises(SandboxLost):
        await sandbox.exec("true")
    await host.close()


def test_an_archive_that_a_container_forged_is_taken_apart():
    """The program called tar inside may say what it likes."""
    for name, kind, said in (
        ("../../evil", tarfile.REGTYPE, "climbs out"),
        ("a/../../evil", tarfile.DIRTYPE, "climbs out"),
        ("/etc/evil", tarfile.REGTYPE, "absolute"),
        ("fine", tarfile.BLKTYPE, ""),
    ):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
        if said:
            with pytest.raises(PathRefused, match=said):
                rebuilt(buffer.getvalue(), "x")
        else:
            with tarfile.open(fileobj=io.BytesIO(rebuilt(buffer.getvalue(), "x"))) as tar:
                assert tar.getnames() == []


def test_the_socket_is_found_where_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/x.sock")
    assert find_socket() == f"{tmp_path}/x.sock"
    monkeypatch.setenv("DOCKER_HOST", "tcp://1.2.3.4:2375")
    assert find_socket() is None
